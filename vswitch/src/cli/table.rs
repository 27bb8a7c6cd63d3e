//! Aligned columns.

/// A column's heading and alignment.
#[derive(Debug, Clone, Copy)]
pub(super) enum Column {
    /// Text.
    Left(&'static str),
    /// Numbers.
    Right(&'static str),
}

/// Rows under headings, two blanks between columns, no trailing blanks.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    columns: [Column; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(columns: [Column; N]) -> Self {
        Table { columns, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(clean));
    }

    pub(super) fn render(&self) -> String {
        let titles = self.columns.map(|column| match column {
            Column::Left(title) | Column::Right(title) => title.to_owned(),
        });
        let mut widths = titles.each_ref().map(|title| title.chars().count());
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut out = String::new();
        for row in std::iter::once(&titles).chain(&self.rows) {
            let mut line = String::new();
            for ((column, width), cell) in self.columns.iter().zip(widths).zip(row) {
                if !line.is_empty() {
                    line.push_str("  ");
                }
                match column {
                    Column::Left(_) => line.push_str(&format!("{cell:<width$}")),
                    Column::Right(_) => line.push_str(&format!("{cell:>width$}")),
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// No name moves the cursor of a terminal. An empty cell is a dash, so that columns can be told apart.
fn clean(cell: String) -> String {
    if cell.is_empty() {
        "-".to_owned()
    } else if cell.chars().any(char::is_control) {
        cell.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
    } else {
        cell
    }
}

/// Bytes in a unit that leaves at most four digits before the point.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 10_000 {
        return format!("{n} B");
    }
    let mut value = n as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A duration in its two largest units.
pub(super) fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{s}.{} s", ms % 1000 / 100),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}
