//! The document as one self-contained HTML page: no script, nothing fetched, forbidden both by its own content security policy. It fits a phone
//! and a wide window, light and dark, and prints.
//!
//! Everything goes through [`Page`]: tags and attributes are texts of this program (`&'static str`), all else is escaped.

use std::fmt::Display;

use model::{GateOutcome, SignalSays};

use crate::{
    document::{Document, Response},
    picture,
    text::shown,
};

/// A page, or a part of one. Foreign text enters by [`Page::text`] alone.
#[derive(Debug, Default)]
pub(crate) struct Page(String);

impl Page {
    /// Markup of this program.
    pub(crate) fn tag(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Any text, harmless.
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        for character in shown(text, 8000).chars() {
            match character {
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '&' => self.0.push_str("&amp;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '`' => self.0.push_str("&#96;"),
                plain => self.0.push(plain),
            }
        }
        self
    }

    /// Text between markup.
    pub(crate) fn put(&mut self, before: &'static str, text: impl Display, after: &'static str) -> &mut Self {
        self.tag(before).text(&text.to_string()).tag(after)
    }

    /// A number, in an attribute of a picture.
    pub(crate) fn number(&mut self, number: i64) -> &mut Self {
        self.0.push_str(&number.to_string());
        self
    }

    pub(crate) fn finish(self) -> String {
        self.0
    }

    pub(crate) fn append(&mut self, other: Self) -> &mut Self {
        self.0.push_str(&other.0);
        self
    }
}

/// The document as a page.
#[must_use]
pub fn render(told: &Document) -> String {
    let mut page = Page::default();
    page.tag("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.tag("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">\n");
    page.tag("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"referrer\" content=\"no-referrer\">\n");
    page.put("<title>", format!("{} {}", told.incident, told.title), "</title>\n");
    page.tag("<style>").tag(STYLE).tag("</style>\n</head>\n<body>\n<main>\n");
    head(&mut page, told);
    answers(&mut page, told);
    for response in &told.responses {
        respond(&mut page, response);
    }
    page.tag("<section><h2>Timeline</h2>");
    page.append(picture::milestones(told));
    page.append(picture::timeline(told));
    left_out(&mut page, told.timeline_left_out, "moments in the middle");
    page.tag("</section>\n");
    if !told.processes.is_empty() {
        page.tag("<section><h2>Processes</h2>");
        page.append(picture::processes(told));
        left_out(&mut page, told.processes_left_out, "processes");
        page.tag("</section>\n");
    }
    if !told.graph.entities.is_empty() {
        page.tag("<section><h2>What has to do with what</h2>");
        page.append(picture::graph(told));
        page.tag("<details><summary>In words</summary><ul>");
        let label =
            |index: u32| told.graph.entities.get(index as usize).map_or("?", |entity| entity.label.as_str());
        for link in &told.graph.links {
            page.put("<li>", label(link.from), " ").put("<i>", &link.what, "</i> ").put(
                "",
                label(link.to),
                "</li>",
            );
        }
        page.tag("</ul></details>");
        left_out(&mut page, told.graph.left_out, "things");
        page.tag("</section>\n");
    }
    findings(&mut page, told);
    known(&mut page, told);
    page.put(
        "<footer>Hemostat · told ",
        told.told,
        " · what came later is not in it</footer>\n</main>\n</body>\n</html>\n",
    );
    page.finish()
}

fn head(page: &mut Page, told: &Document) {
    page.tag("<header><p class=\"line\">");
    page.tag(match told.severity {
        model::Level::Critical => "<span class=\"chip bad\">",
        model::Level::High => "<span class=\"chip warn\">",
        _ => "<span class=\"chip\">",
    });
    page.put("", format!("{:?}", told.severity), "</span>");
    page.put("<span class=\"chip\">", format!("{:?}", told.state), "</span>");
    if let Some(verdict) = told.verdict {
        page.put("<span class=\"chip\">", format!("{verdict:?}"), "</span>");
    }
    page.put("<code>", &told.incident, "</code></p>");
    page.put("<h1>", &told.title, "</h1><ul class=\"plain\">");
    for sentence in &told.summary {
        page.put("<li>", sentence, "</li>");
    }
    page.tag("</ul>");
    if !told.techniques.is_empty() {
        page.tag("<p class=\"line\">");
        for technique in &told.techniques {
            page.put("<span class=\"chip\">", technique, "</span>");
        }
        page.tag("</p>");
    }
    page.tag("</header>\n");
}

fn answers(page: &mut Page, told: &Document) {
    for answer in &told.answers {
        page.tag(if answer.until.is_some() { "<section class=\"ask\">" } else { "<section>" });
        page.put("<h2>", &answer.question, "</h2>");
        page.put("<p>", &answer.would, "</p>");
        page.put("<p class=\"quiet\">", &answer.because, "</p><div class=\"commands\">");
        for command in &answer.commands {
            page.put("<div><b>", &command.label, "</b>").put(
                "<code class=\"copy\">",
                &command.command,
                "</code></div>",
            );
        }
        page.tag("</div>");
        if let Some(until) = answer.until {
            page.put("<p class=\"quiet\">No answer until ", until, " is a no.</p>");
        }
        page.tag("</section>\n");
    }
}

fn respond(page: &mut Page, response: &Response) {
    page.put("<section><h2>Playbook ", &response.playbook, "</h2><p class=\"line\">");
    page.put("<span class=\"chip\">", &response.state, "</span>");
    page.put(
        "<span class=\"chip\">",
        match response.outcome {
            GateOutcome::Automatic => "may act by itself",
            GateOutcome::Approval => "asks a person",
            GateOutcome::Shadow => "shadow",
        },
        "</span></p>",
    );
    for short in &response.short {
        page.put("<div class=\"short\"><b>Fell short: ", &short.signal, "</b> ");
        page.put("<span>", &short.numbers, "</span><ul>");
        for line in &short.evidence {
            page.put("<li>", line, "</li>");
        }
        page.tag("</ul></div>");
    }
    if !response.signals.is_empty() {
        page.tag("<div class=\"bars\">");
        for signal in &response.signals {
            page.tag(if signal.says == SignalSays::Act {
                "<div class=\"bar\">"
            } else {
                "<div class=\"bar low\">"
            });
            page.put("<span>", signal.kind, "</span>");
            page.append(picture::share(signal.found, signal.needed));
            let numbers = match (signal.found, signal.needed) {
                (Some(found), Some(needed)) => format!("{found} of {needed}"),
                _ if signal.says == SignalSays::Act => "nothing against it".into(),
                _ => "speaks against it".into(),
            };
            page.put("<span>", numbers, "</span></div>");
        }
        page.tag("</div>");
    }
    if let Some(plan) = &response.plan {
        page.put("<p>", &plan.description, "</p>");
        let who =
            if plan.approvers.is_empty() { "anybody with access".into() } else { plan.approvers.join(", ") };
        page.put("<p class=\"quiet\">Blast radius: at most ", &plan.widest, " a step, ");
        page.put("", plan.maximum_targets, " different targets. ").put(
            "Yes says: ",
            who,
            ".</p><ol class=\"steps\">",
        );
        for step in &plan.steps {
            page.put("<li><b>", &step.name, "</b> ").put("<code>", &step.action, "</code>");
            if !step.state.is_empty() {
                page.put(" <span class=\"chip\">", &step.state, "</span>");
            }
            if !step.needs.is_empty() {
                page.put(" <span class=\"quiet\">after ", step.needs.join(", "), "</span>");
            }
            page.put("<br>", &step.would, "").put(
                " <span class=\"quiet\">· undo: ",
                &step.undo,
                "</span></li>",
            );
        }
        page.tag("</ol>");
    }
    page.tag("<details><summary>Everything the gate looked at</summary><ul>");
    for reason in &response.reasons {
        page.put("<li>", reason, "</li>");
    }
    page.tag("</ul></details></section>\n");
}

fn findings(page: &mut Page, told: &Document) {
    page.tag("<section><h2>Findings</h2><ul class=\"findings\">");
    for found in &told.findings {
        page.put("<li><span class=\"chip\">", format!("{:?}", found.level), "</span> ");
        page.put("<b>", &found.title, "</b> ").put("<span class=\"quiet\">×", found.count, " · ");
        page.put("", found.at, " · ").put("", &found.rule, " · ").put(
            "",
            found.techniques.join(", "),
            "</span>",
        );
        page.put("<p>", &found.what, "</p><dl>");
        for (field, value) in &found.matched {
            page.put("<dt>", field, "</dt>").put("<dd><code>", value, "</code></dd>");
        }
        page.tag("</dl>");
        if found.lost > 0 {
            page.put(
                "<p class=\"quiet\">",
                found.lost,
                " events were lost around it: the picture may have gaps.</p>",
            );
        }
        page.tag("</li>");
    }
    page.tag("</ul>");
    left_out(page, told.findings_left_out, "findings");
    page.tag("</section>\n");
}

fn known(page: &mut Page, told: &Document) {
    let known = &told.known;
    if known.intelligence.is_empty() && known.facts.is_empty() && known.missing.is_empty() {
        return;
    }
    page.tag("<section><h2>Known of it</h2><ul class=\"plain\">");
    for one in &known.intelligence {
        page.put("<li><span class=\"chip bad\">feed</span> <code>", &one.observed, "</code> is ");
        page.put("", &one.relation, " ").put("<code>", &one.indicator, "</code> of ").put("", &one.feed, "");
        page.put(" <span class=\"quiet\">confidence ", one.confidence, " · written ");
        page.put("", one.written, " · ").put("", &one.note, " · seen in ").put(
            "",
            &one.seen_in,
            "</span></li>",
        );
    }
    for one in &known.facts {
        page.put("<li><span class=\"chip\">", format!("{:?}", one.kind), "</span> ").put("", &one.what, "");
        page.put(" <span class=\"quiet\">", &one.source, " · since ").put("", one.known, "</span></li>");
    }
    for one in &known.missing {
        page.put("<li><span class=\"chip warn\">not known</span> ", &one.what, "");
        page.put(" <span class=\"quiet\">", &one.because, "</span></li>");
    }
    page.tag("</ul></section>\n");
}

fn left_out(page: &mut Page, many: u64, what: &'static str) {
    if many > 0 {
        page.put("<p class=\"quiet\">… ", format!("{many} {what} left out"), "</p>");
    }
}

/// Nothing in it is fetched. Pictures come in two sizes, of which one is shown.
const STYLE: &str = "
:root{--ink:#1b2430;--soft:#5b6675;--line:#d5dbe3;--paper:#fff;--back:#f4f6f9;--bad:#b42318;--badback:#fdecea;--warn:#a15c00;--warnback:#fff4e0;--good:#17692f;--blue:#1d4ed8;--blueback:#e8efff}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa6b5;--line:#38424f;--paper:#181e26;--back:#10151b;--bad:#ff8a80;--badback:#3a1c1a;--warn:#ffc069;--warnback:#38290f;--good:#7bd88f;--blue:#8ab4ff;--blueback:#1b2a49}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:16px}
h1{font-size:1.6rem;line-height:1.25;margin:.2em 0 .4em;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:0 0 .6em;overflow-wrap:anywhere}
section,header{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:16px;margin:0 0 14px}
section.ask{border:2px solid var(--warn)}
p,li,dd{overflow-wrap:anywhere}
p{margin:.4em 0}
ul,ol{margin:.4em 0;padding-left:1.3em}
ul.plain,ul.findings{list-style:none;padding:0}
ul.findings>li{border-top:1px solid var(--line);padding:.7em 0}
ul.findings>li:first-child{border-top:0}
ol.steps>li{margin:.5em 0}
code{font:12.5px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.quiet{color:var(--soft);font-size:.9em}
.line{display:flex;flex-wrap:wrap;gap:6px;align-items:center}
.chip{display:inline-block;border:1px solid var(--line);border-radius:999px;padding:0 .6em;font-size:.8rem}
.chip.bad{color:var(--bad);background:var(--badback);border-color:var(--bad)}
.chip.warn{color:var(--warn);background:var(--warnback);border-color:var(--warn)}
.commands{display:grid;gap:8px;grid-template-columns:repeat(auto-fit,minmax(260px,1fr));margin:.6em 0}
.commands>div{border:1px solid var(--line);border-radius:8px;padding:8px 10px}
.copy{display:block;user-select:all;-webkit-user-select:all;background:var(--back);border-radius:6px;padding:6px 8px;margin-top:4px}
.short{border-left:4px solid var(--bad);background:var(--badback);padding:8px 12px;border-radius:0 8px 8px 0;margin:.6em 0}
.bars{display:grid;gap:6px;margin:.8em 0}
.bar{display:grid;grid-template-columns:11em 1fr 11em;gap:10px;align-items:center;font-size:.9em}
.bar svg{width:100%;height:12px}
dl{display:grid;grid-template-columns:minmax(6em,auto) 1fr;gap:2px 12px;margin:.4em 0}
dt{color:var(--soft)}dd{margin:0}
details summary{cursor:pointer;color:var(--soft)}
footer{color:var(--soft);font-size:.85em;text-align:center;padding:8px}
svg.wide{display:block;width:100%;height:auto}svg.narrow{display:none;width:100%;height:auto}
@media(max-width:680px){main{padding:8px}section,header{padding:12px}svg.wide{display:none}svg.narrow{display:block}.bar{grid-template-columns:1fr}}
@media print{body{background:#fff}section,header{break-inside:avoid}}
svg text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;fill:var(--ink)}
svg .mono{font:11.5px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
svg .soft{fill:var(--soft)}svg .strong{font-weight:600}svg .badtext{fill:var(--bad)}
svg .box{fill:var(--paper);stroke:var(--line)}svg .box.hot{fill:var(--badback);stroke:var(--bad);stroke-width:1.5}svg .box.held{stroke-dasharray:5 3;stroke:var(--blue);stroke-width:2}
svg .wire{fill:none;stroke:var(--line);stroke-width:1.5}svg .edge{fill:none;stroke:var(--soft);stroke-width:1.2;opacity:.55}
svg .band{fill:var(--back)}svg .gap{stroke:var(--line);stroke-dasharray:3 3}
svg .seen{fill:var(--warn)}svg .decided{fill:var(--soft)}svg .done{fill:var(--blue)}svg .person{fill:var(--good)}
svg .empty{fill:var(--line)}svg .full{fill:var(--good)}svg .low{fill:var(--bad)}svg .mark{stroke:var(--ink);stroke-width:2}
";
