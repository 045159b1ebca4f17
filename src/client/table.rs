//! Draws rows as a table for a terminal: numbers right, texts left, long cells cut at the width that is left.

/// Widest cell; what is longer ends in an ellipsis. JSON and CSV show it whole.
const MAX_CELL_CHARS: usize = 48;

/// A table of texts; `numeric` tells which columns are aligned to the right.
pub(crate) fn draw(header: &[String], numeric: &[bool], rows: &[Vec<String>]) -> String {
    let cut: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| shorten(cell)).collect()).collect();
    let widths: Vec<usize> = header
        .iter()
        .enumerate()
        .map(|(column, name)| {
            let widest = cut.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
            widest.unwrap_or(0).max(name.chars().count())
        })
        .collect();
    let mut out = String::new();
    line(&mut out, header, &widths, &vec![false; header.len()]);
    let rule: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
    line(&mut out, &rule, &widths, &vec![false; header.len()]);
    for row in &cut {
        line(&mut out, row, &widths, numeric);
    }
    out
}

fn line(out: &mut String, cells: &[String], widths: &[usize], right: &[bool]) {
    let mut text = String::new();
    for (column, cell) in cells.iter().enumerate() {
        let width = widths.get(column).copied().unwrap_or(0);
        if column > 0 {
            text.push_str("  ");
        }
        if right.get(column).copied().unwrap_or(false) {
            text.push_str(&format!("{cell:>width$}"));
        } else {
            text.push_str(&format!("{cell:<width$}"));
        }
    }
    out.push_str(text.trim_end());
    out.push('\n');
}

fn shorten(cell: &str) -> String {
    let plain: String = cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if plain.chars().count() <= MAX_CELL_CHARS {
        return plain;
    }
    plain.chars().take(MAX_CELL_CHARS - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_texts_left() {
        let table = draw(
            &["name".into(), "n".into()],
            &[false, true],
            &[vec!["a".into(), "7".into()], vec!["bcdef".into(), "123".into()]],
        );
        assert_eq!(table, "name   n\n─────  ───\na        7\nbcdef  123\n");
    }

    #[test]
    fn a_terminal_is_not_given_control_characters() {
        assert!(!draw(&["x".into()], &[false], &[vec!["\u{1b}[31mred".into()]]).contains('\u{1b}'));
    }
}
