//! What was found: printed as it comes, and written as a Markdown table and as bars in an SVG.

use std::borrow::Borrow;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use crate::counter::Counted;
use crate::laps::Percentiles;
use crate::server::{COPYING, DISK};

/// Ours with its defaults, and the loop over the same transport.
const OURS: [(&str, &str); 2] = [("ours-dev", "bare-1"), ("ours-ring", "bare-ring")];

/// One question, asked of some servers.
pub(crate) struct Row {
    pub(crate) question: String,
    /// Whether a rate of MiB is the answer; otherwise it is a time.
    pub(crate) in_mib: bool,
    pub(crate) cells: Vec<Cell>,
}

/// One server's answer.
pub(crate) struct Cell {
    pub(crate) server: String,
    /// The loop to hold it against; the disk where loops cannot be asked.
    pub(crate) floor: &'static str,
    /// Seconds for one operation or MiB: the median of the rounds.
    pub(crate) median: f64,
    pub(crate) percentiles: Percentiles,
    /// CPU seconds of the server for one operation; `None` for who has no process.
    pub(crate) cpu: Option<f64>,
    pub(crate) requests: Option<Counted>,
}

impl Row {
    fn of(&self, server: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.server == server)
    }

    /// Who is the fastest of all that are neither ours nor a loop nor the filesystem below.
    fn fastest_other(&self) -> Option<&Cell> {
        let is_other = |cell: &&Cell| {
            !["ours", "bare", DISK].iter().any(|prefix| cell.server.starts_with(prefix))
        };
        self.cells.iter().filter(is_other).min_by(|a, b| a.median.total_cmp(&b.median))
    }

    /// How often as long as `other`, as text: never rounded in our favour.
    fn against(&self, cell: &Cell, other: &str) -> Option<String> {
        let other = self.of(other)?;
        let hundredths = cell.median / other.median * 100.0;
        let is_ours = cell.server.starts_with("ours");
        let rounded = if is_ours { hundredths.ceil() } else { hundredths.floor() };
        (other.server != cell.server).then(|| format!("{:.2}", rounded / 100.0))
    }

    fn answer(&self, cell: &Cell) -> String {
        if self.in_mib { format!("{:.0} MiB/s", 1.0 / cell.median) } else { time(cell.median) }
    }

    fn answer_of(&self, server: &str) -> String {
        self.of(server).map_or_else(|| "-".into(), |cell| self.answer(cell))
    }

    pub(crate) fn print(&self) {
        println!("\n{}", self.question);
        for cell in &self.cells {
            let mut line = format!("  {:16}{:>12}", cell.server, self.answer(cell));
            for (name, seconds) in cell.percentiles.named() {
                if !seconds.is_nan() {
                    let _ = write!(line, "  {name} {:>9}", time(seconds));
                }
            }
            if let Some(cpu) = cell.cpu {
                let _ = write!(line, "  CPU {:>9}", time(cpu));
            }
            let mut held = vec!["bare-1", cell.floor, DISK, COPYING];
            held.dedup();
            for other in held {
                if let Some(ratio) = self.against(cell, other) {
                    let _ = write!(line, "  {ratio}x {other}");
                }
            }
            if let Some(Counted { each, names }) = &cell.requests
                && !names.is_empty()
            {
                let _ = write!(line, "  {each:.3} requests:{names}");
            }
            println!("{line}");
        }
    }
}

impl Percentiles {
    fn named(&self) -> [(&'static str, f64); 3] {
        [("p50", self.p50), ("p99", self.p99), ("p99.9", self.p999)]
    }
}

/// Seconds, in the unit that suits them.
fn time(seconds: f64) -> String {
    match seconds {
        nan if nan.is_nan() => "-".into(),
        long if long >= 1.0 => format!("{long:.2} s"),
        some if some >= 1e-3 => format!("{:.2} ms", some * 1e3),
        short => format!("{:.2} us", short * 1e6),
    }
}

/// Writes all into `directory`, and says where. `conditions` are lines to stand above.
pub(crate) fn write(directory: &Path, rows: &[Row], conditions: &[String]) -> io::Result<()> {
    written(directory, "comparison", &markdown(rows, conditions), &svg(rows))
}

/// Writes a table for each of `parts`, in which each server is held against the first, into the files `name` of `directory`, and
/// says where.
pub(crate) fn write_beside_the_first(
    directory: &Path,
    (name, title): (&str, &str),
    parts: &[(&str, Vec<Row>)],
    conditions: &[String],
) -> io::Result<()> {
    let mut text = headed(title, conditions);
    text += "\nMedians of the rounds for one operation; in brackets the time as a multiple of what stands first.\n";
    for (name, rows) in parts {
        let Some(first) = rows.first() else { continue };
        let _ = write!(text, "\n## {name}\n\n| |");
        first.cells.iter().for_each(|cell| text += &format!(" {} |", cell.server));
        text += "\n|---|";
        first.cells.iter().for_each(|_| text.push_str("--:|"));
        for row in rows {
            let _ = write!(text, "\n| {} |", row.question);
            for cell in &row.cells {
                let beside =
                    row.cells.first().and_then(|default| row.against(cell, &default.server));
                let beside = beside.map_or_else(String::new, |ratio| format!(" ({ratio})"));
                let _ = write!(text, " {}{beside} |", row.answer(cell));
            }
        }
        text.push('\n');
    }
    let rows: Vec<&Row> = parts.iter().flat_map(|(_, rows)| rows).collect();
    written(directory, name, &text, &svg(&rows))
}

fn written(directory: &Path, name: &str, text: &str, drawing: &str) -> io::Result<()> {
    let table = directory.join(name).with_extension("md");
    let plot = directory.join(name).with_extension("svg");
    fs::write(&table, text)?;
    fs::write(&plot, drawing)?;
    println!("\nwritten: {} and {}", table.display(), plot.display());
    Ok(())
}

fn headed(title: &str, conditions: &[String]) -> String {
    let mut text = format!("# {title}\n\n");
    for line in conditions {
        let _ = writeln!(text, "- {line}");
    }
    text
}

fn markdown(rows: &[Row], conditions: &[String]) -> String {
    let mut text = headed("Servers on the same work in the same run", conditions);
    let mut servers: Vec<&str> = Vec::new();
    for cell in rows.iter().flat_map(|row| &row.cells) {
        if !servers.contains(&cell.server.as_str()) {
            servers.push(&cell.server);
        }
    }
    text += &in_short(rows);
    text.push_str("\n## Medians of the rounds, for one operation\n\n| |");
    servers.iter().for_each(|server| text += &format!(" {server} |"));
    text += "\n|---|";
    servers.iter().for_each(|_| text.push_str("--:|"));
    for row in rows {
        let _ = write!(text, "\n| {} |", row.question);
        for server in &servers {
            let answer = row.answer_of(server);
            let _ = write!(text, " {answer} |");
        }
    }
    text.push_str(
        "\n\n## Each\n\nPercentiles are over single operations of all rounds; where MiB count, over single calls, of \
         1 MiB in writing and 128 KiB in reading. Requests are those the kernel sent for one operation, CPU is what \
         the server's process took for it. Ratios are of times.\n",
    );
    for row in rows {
        let _ = writeln!(text, "\n### {}\n", row.question);
        text +=
            "| server | median | p50 | p99 | p99.9 | requests | CPU | to bare loop | to disk |\n";
        text += "|---|--:|--:|--:|--:|---|--:|--:|--:|\n";
        for cell in &row.cells {
            let requests = cell.requests.as_ref().filter(|counted| !counted.names.is_empty());
            let requests = requests.map_or_else(String::new, |counted| {
                format!("{:.2}:{}", counted.each, counted.names.to_lowercase())
            });
            let [p50, p99, p999] = cell.percentiles.named().map(|(_, seconds)| time(seconds));
            let _ = writeln!(
                text,
                "| {} | {} | {p50} | {p99} | {p999} | {requests} | {} | {} | {} |",
                cell.server,
                row.answer(cell),
                cell.cpu.map(time).unwrap_or_default(),
                if cell.floor == DISK { None } else { row.against(cell, cell.floor) }
                    .unwrap_or_default(),
                row.against(cell, DISK).unwrap_or_default(),
            );
        }
    }
    text
}

/// Ours on each transport beside what it is held against, as README shows it, and how many times as long it takes.
fn in_short(rows: &[Row]) -> String {
    let mut text = String::from(
        "\n## In short\n\n| | ext4 | bare loop | ours, `/dev/fuse` | ours, io_uring | fastest other |\n\
         |---|--:|--:|--:|--:|---|\n",
    );
    // What two clients wait for is between what one does and what eight do.
    let shown = || rows.iter().filter(|row| !row.question.ends_with(", 2 clients"));
    for row in shown() {
        let _ = write!(text, "| {} |", row.question);
        for server in [DISK, "bare-1", OURS[0].0, OURS[1].0] {
            let answer = row.answer_of(server);
            let _ = write!(text, " {answer} |");
        }
        let other = row.fastest_other();
        let other = other.map(|cell| format!("{} {}", row.answer(cell), cell.server));
        let _ = writeln!(text, " {} |", other.unwrap_or_else(|| "-".into()));
    }
    text += "\nHow many times as long ours takes, rounded up: as ext4 (or what the disk has), as the bare loop of the same \
             transport, as the fastest other.\n\n\
             | | `/dev/fuse`: ext4 | loop | other | io_uring: ext4 | loop | other |\n\
             |---|--:|--:|--:|--:|--:|--:|\n";
    for row in rows {
        let _ = write!(text, "| {} |", row.question);
        for (ours, bare) in OURS {
            let other = row.fastest_other().map(|cell| cell.server.as_str());
            for held in [Some(DISK), Some(bare), other] {
                let both = row.of(ours).zip(held);
                let times = both.and_then(|(ours, held)| row.against(ours, held));
                let _ = write!(text, " {} |", times.unwrap_or_else(|| "-".into()));
            }
        }
        text.push('\n');
    }
    text
}

/// Measures of the drawing, in pixels.
const WIDTH: usize = 460;
const BAR: usize = 16;
const COLUMNS: usize = 3;
const NAMES: usize = 120;
const BARS: f64 = 220.0;

/// A chart for each row: a bar as long as the median, and a stroke at p99 where that is within the chart.
fn svg<R: Borrow<Row>>(rows: &[R]) -> String {
    let lines = rows.chunks(COLUMNS).map(|line| {
        let most = line.iter().map(|row| row.borrow().cells.len()).max().unwrap_or_default();
        (line, (most + 3) * BAR)
    });
    let lines: Vec<_> = lines.collect();
    let height: usize = lines.iter().map(|(_, height)| height).sum();
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        COLUMNS * WIDTH
    );
    let mut top = 0;
    for (line, height) in lines {
        for (column, row) in line.iter().enumerate() {
            chart(&mut text, row.borrow(), column * WIDTH + 8, top);
        }
        top += height;
    }
    text + "</svg>\n"
}

fn chart(text: &mut String, row: &Row, left: usize, top: usize) {
    let title = escaped(&row.question);
    let unit = if row.in_mib { ", MiB/s" } else { "" };
    let _ = writeln!(
        text,
        "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{title}{unit}</text>",
        top + BAR
    );
    let value = |cell: &Cell| if row.in_mib { 1.0 / cell.median } else { cell.median };
    let most = row.cells.iter().map(value).filter(|value| value.is_finite()).fold(0.0, f64::max);
    for (number, cell) in row.cells.iter().enumerate() {
        let y = top + BAR * (number + 1) + BAR / 2;
        let colour = match cell.server.as_str() {
            name if name.starts_with("ours") => "#c2410c",
            name if name.starts_with("bare") || name == DISK => "#94a3b8",
            _ => "#1d4ed8",
        };
        let long = |value: f64| if most > 0.0 { value / most * BARS } else { 0.0 };
        let bars = left + NAMES;
        let _ = writeln!(
            text,
            "<text x=\"{left}\" y=\"{}\">{}</text><rect x=\"{bars}\" y=\"{y}\" width=\"{:.1}\" height=\"{}\" \
             fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{}\">{}</text>",
            y + 11,
            escaped(&cell.server),
            long(value(cell)),
            BAR - 4,
            bars as f64 + BARS + 6.0,
            y + 11,
            row.answer(cell),
        );
        let p99 = cell.percentiles.p99;
        if !row.in_mib && p99 <= most {
            let x = bars as f64 + long(p99);
            let _ = writeln!(
                text,
                "<rect x=\"{x:.1}\" y=\"{y}\" width=\"1.5\" height=\"{}\" fill=\"black\"/>",
                BAR - 4
            );
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
