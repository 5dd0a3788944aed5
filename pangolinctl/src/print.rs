//! Output: tables for people, JSON for programs.

use std::io::{IsTerminal as _, Write as _};

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use pangolin_core::Timestamp;
use pangolin_wire::Moment;
use serde_json::Value;

use crate::failure::Failure;

/// Writes a text to stdout, with a line feed behind it.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Ok(()) => Ok(()),
        // The reader has seen enough (`pangolinctl … | head`).
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::new(format!("the output cannot be written: {error}"))),
    }
}

/// Writes a remark to stderr, where it does not get into a pipe.
pub(crate) fn remark(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Writes JSON to stdout.
pub(crate) fn json(value: &Value) -> Result<(), Failure> {
    line(&format!("{value:#}"))
}

/// Whether stdout is a terminal.
pub(crate) fn on_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Whether colours are welcome (<https://no-color.org>).
fn colours() -> bool {
    on_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A table: headings in capitals, no lines, two blanks between columns.
pub(crate) fn table<const N: usize>(
    headings: [&str; N],
    rows: impl IntoIterator<Item = [Cell; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if on_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table.set_header(headings);
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((u16::from(index > 0), 1));
    }
    table.trim_fmt()
}

/// Name and value, one pair to a line.
pub(crate) fn pairs<const N: usize>(rows: [(&str, String); N]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<String> = rows.iter().map(|(name, value)| format!("{name:<width$}  {value}")).collect();
    lines.join("\n")
}

/// A cell with a text.
pub(crate) fn cell(text: impl ToString) -> Cell {
    Cell::new(text.to_string())
}

/// A cell with a state, green if good and red if not.
pub(crate) fn state(text: impl ToString, good: bool) -> Cell {
    let cell = Cell::new(text.to_string());
    if !colours() {
        return cell;
    }
    cell.fg(if good { Color::Green } else { Color::Red })
}

/// `yes` or `no`.
pub(crate) fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// The value, or a dash.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// The values with commas between, or a dash.
pub(crate) fn list<T: ToString>(values: &[T]) -> String {
    let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
    if texts.is_empty() { "-".to_owned() } else { texts.join(",") }
}

/// A moment to the second: `2026-11-21 06:49:05Z`.
pub(crate) fn moment(moment: Moment) -> String {
    let text = Moment(Timestamp(moment.0.0 / 1000 * 1000)).to_string();
    text.replace('T', " ").replace(".000Z", "Z")
}

/// A value of the API's JSON as a bare word: `up`, `http`.
pub(crate) fn word(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(_) => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_plain_text_with_aligned_columns() {
        let text = table(["ID", "NAME"], [[cell(1), cell("home")], [cell(12), cell("-")]]);
        assert_eq!(text, "ID  NAME\n1   home\n12  -");
    }

    #[test]
    fn values_have_short_words() {
        assert_eq!(list::<u64>(&[]), "-");
        assert_eq!(list(&[1, 2]), "1,2");
        assert_eq!(word(pangolin_core::record::Method::H2c), "h2c");
        assert_eq!(moment(Moment(Timestamp(1_795_243_745_123))), "2026-11-21 06:49:05Z");
    }
}
