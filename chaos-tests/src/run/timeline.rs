//! A picture of a run: nodes as rows, coloured while they lead, faults as bars, and what clients and visitors got.

use std::{collections::BTreeMap, fmt::Write as _};

use pangolin_core::NodeId;

use super::figures::per_second;
use crate::history::{History, Role, What};

/// Width of the drawn time, in pixels.
const WIDTH: f64 = 1500.0;
/// Room for names at the left.
const LEFT: f64 = 190.0;
/// Height of a row.
const ROW: f64 = 22.0;
/// Height of the diagram of operations.
const DIAGRAM: f64 = 110.0;
/// Columns of the diagram at most: more than that is not told apart.
const COLUMNS: u64 = 750;

/// A span of time with a colour and what is said when somebody points at it.
struct Bar {
    from: u64,
    to: u64,
    colour: String,
    title: String,
}

/// Draws the picture as SVG.
pub(super) fn draw(history: &History) -> String {
    let mut picture = Picture::new(history);
    picture.title(history);
    for (node, bars) in nodes(history, picture.end) {
        picture.row(&format!("node {node}"), &bars);
    }
    for (node, bars) in silences(history) {
        picture.row(&format!("visitors of node {node}"), &bars);
    }
    picture.space();
    for (kind, bars) in faults(history, picture.end) {
        picture.row(&kind, &bars);
    }
    picture.space();
    picture.operations(history);
    picture.finish()
}

struct Picture {
    body: String,
    end: u64,
    y: f64,
}

impl Picture {
    fn new(history: &History) -> Self {
        let end = history.events.last().map_or(1, |event| event.at.max(1));
        Self { body: String::new(), end, y: 10.0 }
    }

    #[expect(clippy::cast_precision_loss, reason = "pixels are coarser")]
    fn x(&self, at: u64) -> f64 {
        LEFT + WIDTH * at as f64 / self.end as f64
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(
            self.body,
            r##"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="#333">{}</text>"##,
            escape(text)
        );
    }

    fn title(&mut self, history: &History) {
        let header = &history.header;
        let text = format!("{} · seed {} · {}", header.kind, header.seed, header.command);
        self.text(LEFT, self.y + 12.0, "start", &text);
        let legend = "dark bar: leads (shade: term) · light: runs · red: away · thin red: no page";
        self.text(LEFT + WIDTH, self.y + 12.0, "end", legend);
        self.y += 26.0;
    }

    fn space(&mut self) {
        self.y += ROW / 2.0;
    }

    fn row(&mut self, name: &str, bars: &[Bar]) {
        let y = self.y;
        self.text(LEFT - 8.0, y + ROW * 0.7, "end", name);
        for bar in bars {
            let x = self.x(bar.from);
            let width = (self.x(bar.to) - x).max(1.0);
            let _ = writeln!(
                self.body,
                r#"<rect x="{x:.1}" y="{:.1}" width="{width:.1}" height="{:.1}" fill="{}"><title>{}</title></rect>"#,
                y + 2.0,
                ROW - 4.0,
                bar.colour,
                escape(&bar.title)
            );
        }
        self.y += ROW;
    }

    /// Operations per second: what succeeded from the axis up, what did not on top of it.
    #[expect(clippy::cast_precision_loss, reason = "pixels are coarser")]
    fn operations(&mut self, history: &History) {
        let width = (self.end / COLUMNS).max(1_000_000);
        let buckets = per_second(history, width);
        let seconds = width as f64 / 1e6;
        let most = buckets.values().map(|counts| counts.iter().sum::<usize>()).max().unwrap_or(0).max(1);
        let base = self.y + DIAGRAM;
        let label = format!("operations/s (most: {:.0})", most as f64 / seconds);
        self.text(LEFT - 8.0, self.y + 14.0, "end", &label);
        self.text(LEFT - 8.0, self.y + 30.0, "end", "green: done, red: refused,");
        self.text(LEFT - 8.0, self.y + 46.0, "end", "amber: unknown");
        for (bucket, counts) in buckets {
            let (x, next) = (self.x(bucket * width), self.x(((bucket + 1) * width).min(self.end)));
            let mut y = base;
            for (count, colour) in counts.into_iter().zip(["#4c9f50", "#c0392b", "#e0a030"]) {
                let height = DIAGRAM * count as f64 / most as f64;
                y -= height;
                if count > 0 {
                    let _ = writeln!(
                        self.body,
                        r#"<rect x="{x:.1}" y="{y:.1}" width="{:.2}" height="{height:.1}" fill="{colour}"/>"#,
                        (next - x).max(0.5)
                    );
                }
            }
        }
        self.y = base;
        self.axis();
    }

    fn axis(&mut self) {
        let seconds = self.end / 1_000_000;
        let step = [10, 30, 60, 300, 900, 3600].into_iter().find(|step| seconds / step <= 16).unwrap_or(7200);
        for mark in (0..=seconds / step).map(|count| count * step) {
            let (x, y) = (self.x(mark * 1_000_000), self.y);
            let _ = writeln!(
                self.body,
                r##"<line x1="{x:.1}" x2="{x:.1}" y1="30" y2="{:.1}" stroke="#bbb" stroke-dasharray="1 4"/>"##,
                y + 4.0
            );
            self.text(x, y + 18.0, "middle", &format!("{}:{:02}", mark / 60, mark % 60));
        }
        self.y += 26.0;
    }

    fn finish(self) -> String {
        let (width, height) = (LEFT + WIDTH + 30.0, self.y + 6.0);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{}</svg>\n",
            self.body
        )
    }
}

/// When each node ran, led, or was away.
fn nodes(history: &History, end: u64) -> BTreeMap<NodeId, Vec<Bar>> {
    let mut rows: BTreeMap<NodeId, Vec<Bar>> = BTreeMap::new();
    let mut since: BTreeMap<NodeId, (u64, bool)> = BTreeMap::new();
    let mut leads: BTreeMap<NodeId, (u64, u64, u64)> = BTreeMap::new();
    let state = |from, to, runs: bool| {
        let (colour, title) = if runs { ("#dfe7ef", "runs") } else { ("#d9534f", "away") };
        Bar { from, to, colour: colour.to_owned(), title: title.to_owned() }
    };
    for event in &history.events {
        let changed = match &event.what {
            What::Started { node } => (*node, true),
            What::Stopped { node } => (*node, false),
            What::Removed { node } => {
                if let Some((from, runs)) = since.remove(node) {
                    rows.entry(*node).or_default().insert(0, state(from, event.at, runs));
                }
                continue;
            }
            What::Observed(seen) => {
                let span = leads.get(&seen.node).copied();
                if let Some((term, from, to)) = span
                    && (seen.role != Role::Leader || seen.term != term)
                {
                    rows.entry(seen.node).or_default().push(lead(term, from, to.max(from)));
                    leads.remove(&seen.node);
                }
                if seen.role == Role::Leader {
                    leads.entry(seen.node).or_insert((seen.term, event.at, event.at)).2 = event.at;
                }
                continue;
            }
            _ => continue,
        };
        let (node, runs) = changed;
        if let Some((from, before)) = since.insert(node, (event.at, runs)) {
            // Below what is drawn later.
            rows.entry(node).or_default().insert(0, state(from, event.at, before));
        }
        if let Some((term, from, to)) = leads.remove(&node) {
            rows.entry(node).or_default().push(lead(term, from, to));
        }
    }
    for (node, (from, runs)) in since {
        rows.entry(node).or_default().insert(0, state(from, end, runs));
    }
    for (node, (term, from, to)) in leads {
        rows.entry(node).or_default().push(lead(term, from, to));
    }
    rows
}

/// Neighbouring terms have colours that are told apart.
fn lead(term: u64, from: u64, to: u64) -> Bar {
    let hue = 200 + (term * 67) % 120;
    Bar { from, to, colour: format!("hsl({hue},60%,45%)"), title: format!("leads in term {term}") }
}

/// Requests of visitors that got no page, joined where they follow each other.
fn silences(history: &History) -> BTreeMap<NodeId, Vec<Bar>> {
    let mut rows: BTreeMap<NodeId, Vec<Bar>> = BTreeMap::new();
    for event in &history.events {
        let What::Probe(probe) = &event.what else { continue };
        let bars = rows.entry(probe.node).or_default();
        let Some(problem) = &probe.problem else { continue };
        match bars.last_mut() {
            Some(last) if last.to + 300_000 >= probe.sent => last.to = last.to.max(event.at),
            _ => bars.push(Bar {
                from: probe.sent,
                to: event.at,
                colour: "#e89a97".to_owned(),
                title: problem.clone(),
            }),
        }
    }
    rows
}

/// When each sort of fault was in effect.
fn faults(history: &History, end: u64) -> BTreeMap<String, Vec<Bar>> {
    let mut rows: BTreeMap<String, Vec<Bar>> = BTreeMap::new();
    let mut places = BTreeMap::new();
    for event in &history.events {
        match &event.what {
            What::FaultStarted(fault) => {
                let bars = rows.entry(fault.kind.clone()).or_default();
                places.insert(fault.fault, (fault.kind.clone(), bars.len()));
                bars.push(Bar {
                    from: event.at,
                    to: end,
                    colour: "#b07cc6".to_owned(),
                    title: fault.detail.clone(),
                });
            }
            What::FaultEnded { fault } => {
                let bar = places.get(fault).and_then(|(kind, place)| rows.get_mut(kind)?.get_mut(*place));
                if let Some(bar) = bar {
                    bar.to = event.at;
                }
            }
            _ => {}
        }
    }
    rows
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Fault, Probe, samples::*};

    #[test]
    fn a_picture_shows_who_led_what_went_wrong_and_when() {
        let node = NodeId(1);
        let fault = |kind: &str| Fault {
            fault: 1,
            kind: kind.into(),
            nodes: [node].into(),
            detail: "n1 <-x-> \"n2\"".into(),
        };
        let history = history([
            (0, What::Started { node }),
            (1_000_000, observed(1, Role::Leader, 3, 1, "")),
            (2_000_000, write(1, "a")),
            (2_500_000, written(1, 2)),
            (3_000_000, What::FaultStarted(fault("kill-leader"))),
            (3_000_001, What::Stopped { node }),
            (4_000_000, What::Probe(Probe { node, sent: 3_900_000, problem: Some("refused".into()) })),
            (9_000_000, What::FaultEnded { fault: 1 }),
            (9_000_000, What::Started { node }),
            (12_000_000, What::Note { text: "the end".into() }),
        ]);
        let svg = draw(&history);
        for expected in [
            ">node 1<",
            "leads in term 3",
            "<title>away</title>",
            ">kill-leader<",
            "n1 &lt;-x-&gt; &quot;n2&quot;",
            "<title>refused</title>",
            ">0:10<",
            "</svg>",
        ] {
            assert!(svg.contains(expected), "{expected} is not in {svg}");
        }
    }
}
