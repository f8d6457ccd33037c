//! A plan as a picture: text for the terminal, DOT for everything else.

use std::fmt::Write as _;

use crds::{Approval, OnFailure};
use model::UndoClass;

use crate::plan::{Plan, PlanStep};

/// One step as a picture shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vertex {
    /// Its name.
    pub name: String,
    /// The action's name.
    pub action: String,
    /// Its level: 0 begins at once.
    pub level: usize,
    /// Names of the steps that it needs.
    pub needs: Vec<String>,
    /// `exact`, `nothing to undo`, or what stays lost.
    pub undo: String,
    /// Notes: condition, approval, what is watched for, alternatives, what a failure does.
    pub notes: Vec<String>,
}

impl Plan {
    /// Every step, level by level.
    #[must_use]
    pub fn vertices(&self) -> Vec<Vertex> {
        let mut all = Vec::new();
        for (level, steps) in self.levels.iter().enumerate() {
            all.extend(steps.iter().map(|&step| self.vertex(&self.steps[step], level)));
        }
        all
    }

    fn vertex(&self, step: &PlanStep, level: usize) -> Vertex {
        let own = step.ways.first();
        let mut notes = Vec::new();
        if let Some(when) = &step.when {
            notes.push(format!("when {}", when.text()));
        }
        if step.approval == Approval::Required || own.is_some_and(crate::plan::Way::irreversible) {
            notes.push("asks a person".into());
        }
        if let Some(observe) = &step.observe {
            let signs: Vec<String> = observe.against.iter().map(ToString::to_string).collect();
            notes.push(format!("watched {} for {}", observe.period, signs.join(", ")));
        }
        for way in step.ways.iter().skip(1) {
            notes.push(format!("else {}", way.kind.name()));
        }
        match step.on_failure {
            OnFailure::Stop => {}
            OnFailure::Continue => notes.push("goes on when it fails".into()),
            OnFailure::Rollback => notes.push("rolls back when it fails".into()),
        }
        Vertex {
            name: step.name.to_string(),
            action: own.map_or("", |way| way.kind.name()).into(),
            level,
            needs: step.needs.iter().map(|&n| self.steps[n].name.to_string()).collect(),
            undo: match own.map(|way| way.kind.undo()) {
                Some(UndoClass::Exact) => "undone exactly".into(),
                Some(UndoClass::Compensable { residual }) => format!("undone, but {residual}"),
                Some(UndoClass::Irreversible { residual }) => format!("cannot be undone: {residual}"),
                Some(UndoClass::Nothing) | None => "changes nothing".into(),
            },
            notes,
        }
    }

    /// One line a step, its level in front, what it needs behind.
    #[must_use]
    pub fn to_text(&self) -> String {
        let vertices = self.vertices();
        let wide = |pick: fn(&Vertex) -> &str| vertices.iter().map(|v| pick(v).len()).max().unwrap_or(0);
        let (name_width, action_width) = (wide(|v| &v.name), wide(|v| &v.action));
        let mut text = String::new();
        let mut level = None;
        for vertex in &vertices {
            let mark =
                if level == Some(vertex.level) { "  ∥".into() } else { format!("{:>3}", vertex.level + 1) };
            level = Some(vertex.level);
            let needs = match vertex.needs.as_slice() {
                [] => String::new(),
                names => format!("  ← {}", names.join(", ")),
            };
            let notes: String = vertex.notes.iter().map(|note| format!("; {note}")).collect();
            // writing to a String cannot fail
            let _ = writeln!(
                text,
                "{mark} {:name_width$}  {:action_width$}  {}{notes}{needs}",
                vertex.name, vertex.action, vertex.undo
            );
        }
        text
    }

    /// Graphviz.
    #[must_use]
    pub fn to_dot(&self) -> String {
        let mut text =
            format!("digraph {} {{\n  rankdir=LR;\n  node [shape=box];\n", quoted(self.name.as_str()));
        for vertex in self.vertices() {
            let label =
                [vec![vertex.name.clone(), vertex.action, vertex.undo], vertex.notes].concat().join("\n");
            let _ = writeln!(text, "  {} [label={}];", quoted(&vertex.name), quoted(&label));
            for need in vertex.needs {
                let _ = writeln!(text, "  {} -> {};", quoted(&need), quoted(&vertex.name));
            }
        }
        text.push_str("}\n");
        text
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
