//! A table that fits its window: the least important columns go first, then the widest texts are shortened.

use unicode_width::UnicodeWidthStr;

use super::{Window, one_line};

/// A column's heading and how it yields when the window is narrow.
pub(crate) struct Column {
    pub(crate) heading: &'static str,
    pub(crate) fit: Fit,
}

/// How a column yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Always whole.
    Keep,
    /// Shortened down to this width when there is no room.
    Shrink(usize),
    /// Left out when there is no room; the highest number goes first.
    Drop(u8),
    /// Shortened down to this width, and left out when there is no room for that; among those that are left out in this order.
    Spare(usize, u8),
}

/// Rows under columns.
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

/// Blanks between two columns.
const GAP: usize = 2;
/// No cell is longer, whatever the window.
const LONGEST_CELL: usize = 4000;

impl Table {
    pub(crate) fn new(columns: Vec<Column>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row with one cell for each column; foreign text is made safe here.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len(), "a row has as many cells as the table has columns");
        self.rows.push(cells.iter().map(|cell| one_line(cell, LONGEST_CELL)).collect());
    }

    /// The table as text with a final line break.
    pub(crate) fn render(&self, window: Window) -> String {
        let natural: Vec<usize> = (0..self.columns.len()).map(|index| self.natural_width(index)).collect();
        let shown = self.columns_that_fit(&natural, window.width);
        let widths = self.shrink(&shown, &natural, window.width);
        let mut out = String::new();
        let headings = self.columns.iter().map(|column| column.heading);
        push_row(&mut out, &shown, &widths, &headings.collect::<Vec<_>>());
        for row in &self.rows {
            push_row(&mut out, &shown, &widths, &row.iter().map(String::as_str).collect::<Vec<_>>());
        }
        out
    }

    fn natural_width(&self, index: usize) -> usize {
        let heading = self.columns[index].heading.width();
        self.rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.width()).fold(heading, usize::max)
    }

    /// Indices of the columns that remain once those that may be dropped have made room.
    fn columns_that_fit(&self, natural: &[usize], width: usize) -> Vec<usize> {
        let mut shown: Vec<usize> = (0..self.columns.len()).collect();
        let least = |index: &usize| match self.columns[*index].fit {
            Fit::Shrink(least) | Fit::Spare(least, _) => natural[*index].min(least),
            Fit::Keep | Fit::Drop(_) => natural[*index],
        };
        loop {
            let needed = shown.iter().map(least).sum::<usize>() + GAP * shown.len().saturating_sub(1);
            let droppable = shown
                .iter()
                .filter_map(|index| match self.columns[*index].fit {
                    Fit::Drop(order) | Fit::Spare(_, order) => Some((order, *index)),
                    Fit::Keep | Fit::Shrink(_) => None,
                })
                .max();
            match droppable {
                Some((_, index)) if needed > width => shown.retain(|kept| *kept != index),
                _ => return shown,
            }
        }
    }

    /// Widths of the shown columns: those that may shrink share what is missing, the widest first.
    fn shrink(&self, shown: &[usize], natural: &[usize], width: usize) -> Vec<usize> {
        let mut widths: Vec<usize> = shown.iter().map(|index| natural[*index]).collect();
        let gaps = GAP * shown.len().saturating_sub(1);
        let mut excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(width);
        while excess > 0 {
            let widest = (0..shown.len())
                .filter(
                    |at| matches!(self.columns[shown[*at]].fit, Fit::Shrink(least) | Fit::Spare(least, _) if widths[*at] > least),
                )
                .max_by_key(|at| widths[*at]);
            match widest {
                Some(at) => widths[at] -= 1,
                None => break,
            }
            excess -= 1;
        }
        widths
    }
}

fn push_row(out: &mut String, shown: &[usize], widths: &[usize], cells: &[&str]) {
    let mut line = String::new();
    for (at, index) in shown.iter().enumerate() {
        let cell = shorten(cells.get(*index).copied().unwrap_or_default(), widths[at]);
        let fill = widths[at].saturating_sub(cell.width()) + GAP;
        line.push_str(&cell);
        line.extend(std::iter::repeat_n(' ', fill));
    }
    out.push_str(line.trim_end());
    out.push('\n');
}

fn shorten(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    for character in text.chars() {
        let mut longer = out.clone();
        longer.push(character);
        if longer.width() + 1 > width {
            break;
        }
        out = longer;
    }
    out.push('…');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::Colour;

    fn sample() -> Table {
        let mut table = Table::new(vec![
            Column { heading: "NAME", fit: Fit::Keep },
            Column { heading: "TARGET", fit: Fit::Shrink(8) },
            Column { heading: "AGE", fit: Fit::Drop(1) },
            Column { heading: "TTC", fit: Fit::Drop(2) },
        ]);
        table.row(["inc-1".into(), "a-very-long-target-name".into(), "42s".into(), "1.8s".into()]);
        table
    }

    fn at(width: usize) -> String {
        sample().render(Window { width, colour: Colour::Plain })
    }

    #[test]
    fn no_line_is_wider_than_the_window() {
        for width in 15..80 {
            for line in at(width).lines() {
                assert!(line.width() <= width, "{width}: {line:?}");
            }
        }
    }

    #[test]
    fn a_title_is_shortened_before_it_is_left_out() {
        let mut table = Table::new(vec![
            Column { heading: "NAME", fit: Fit::Keep },
            Column { heading: "TITLE", fit: Fit::Spare(8, 9) },
        ]);
        table.row(["inc-1".into(), "A miner by its arguments".into()]);
        let at = |width| table.render(Window { width, colour: Colour::Plain });
        assert_eq!(at(40), "NAME   TITLE\ninc-1  A miner by its arguments\n");
        assert_eq!(at(20), "NAME   TITLE\ninc-1  A miner by i…\n");
        assert_eq!(at(14), "NAME\ninc-1\n");
    }

    #[test]
    fn columns_leave_in_order_and_texts_shrink() {
        assert_eq!(
            at(80),
            "NAME   TARGET                   AGE  TTC\ninc-1  a-very-long-target-name  42s  1.8s\n"
        );
        assert_eq!(
            at(22),
            "NAME   TARGET     AGE\ninc-1  a-very-l…  42s\n"
                .replace("TARGET     ", "TARGET      ")
                .replace("a-very-l…  ", "a-very-lo…  ")
        );
        assert_eq!(at(15), "NAME   TARGET\ninc-1  a-very-…\n");
    }
}
