//! A line chart as SVG: text stays text, nothing is fetched, nothing runs.
//!
//! Colours are those of Okabe and Ito, which readers with any colour vision tell apart; a series has a mark and a dash of
//! its own besides. The white ground is drawn, so that the chart reads the same on a dark page.

mod scale;

use std::fmt::Write as _;

use scale::Scale;

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 480.0;
/// Left, right and bottom of the plot. Its top depends on the legend.
const LEFT: f64 = 84.0;
const RIGHT: f64 = 776.0;
const BOTTOM: f64 = 420.0;
/// Between the frame and the outermost points.
const INSET: f64 = 16.0;
/// How wide a character of the legend is held to be; generous, as fonts differ.
const CHARACTER: f64 = 7.5;
const LEGEND_LINE: f64 = 20.0;
/// Colour and dashes of each series, again from the start after the last.
const STYLES: [(&str, &str); 7] = [
    ("#0072B2", ""),
    ("#D55E00", "8 4"),
    ("#009E73", "2 3"),
    ("#CC79A7", "10 3 2 3"),
    ("#000000", "4 4"),
    ("#E69F00", "12 3"),
    ("#56B4E9", "2 6"),
];

/// A chart of one or more series.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    /// What is shown.
    pub title: String,
    /// Where and when it was measured: kernel, offloads, commit, date.
    pub subtitle: String,
    /// What is to the right, with its unit.
    pub x_label: String,
    /// What is upward, with its unit. The axis begins at 0.
    pub y_label: String,
    /// Whether the x axis is logarithmic; points at or below 0 are left out then.
    pub x_log: bool,
    /// The lines.
    pub series: Vec<Series>,
}

/// A line.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// What the legend says.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<Point>,
}

/// A point and its interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// To the right.
    pub x: f64,
    /// Upward. A point of which this or `x` is not finite is left out.
    pub y: f64,
    /// Lower end of the interval. An interval with an end that is not finite is left out.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Point {
    /// A point without an interval.
    #[must_use]
    pub fn exact(x: f64, y: f64) -> Point {
        Point { x, y, low: y, high: y }
    }

    /// Both ends, where they are ends.
    fn interval(&self) -> Option<[f64; 2]> {
        (self.low.is_finite() && self.high.is_finite()).then_some([self.low, self.high])
    }
}

impl Chart {
    /// The whole file.
    #[must_use]
    pub fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" role=\"img\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#222222\">\n\
             <title>{}</title>\n<desc>{}</desc>\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#FFFFFF\"/>\n",
            escaped(&self.title),
            escaped(&format!("{} by {}. {}", self.y_label, self.x_label, self.subtitle)),
        );
        text(&mut svg, [LEFT, 28.0], "font-size=\"17\" font-weight=\"bold\"", &self.title);
        text(&mut svg, [LEFT, 48.0], "font-size=\"12\" fill=\"#555555\"", &self.subtitle);
        let top = self.legend(&mut svg);
        let points: Vec<Vec<Point>> = self.series.iter().map(|series| self.shown(series)).collect();
        let all = || points.iter().flatten();
        let x = Scale::new(all().map(|p| p.x), self.x_log, [LEFT + INSET, RIGHT - INSET]);
        let heights = all().flat_map(|p| p.interval().into_iter().flatten().chain([p.y, 0.0]));
        let y = Scale::new(heights, false, [BOTTOM, top]).rounded();
        self.axes(&mut svg, &x, &y, top);
        for (i, points) in points.iter().enumerate() {
            line(&mut svg, i, points, &x, &y);
        }
        svg + "</svg>\n"
    }

    /// The points of a series that have a place.
    fn shown(&self, series: &Series) -> Vec<Point> {
        let has_place = |p: &&Point| p.x.is_finite() && p.y.is_finite() && (!self.x_log || p.x > 0.0);
        series.points.iter().filter(has_place).copied().collect()
    }

    /// Draws the legend, in as many lines as it needs, and returns where the plot may begin.
    fn legend(&self, svg: &mut String) -> f64 {
        let (mut at, mut line) = (LEFT, 70.0);
        for (i, series) in self.series.iter().enumerate() {
            let wide = 56.0 + CHARACTER * series.name.chars().count() as f64;
            if at > LEFT && at + wide > RIGHT {
                (at, line) = (LEFT, line + LEGEND_LINE);
            }
            let (colour, dash) = style(i);
            let y = line - 4.0;
            let _ = writeln!(
                svg,
                "<line x1=\"{at:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>",
                at + 32.0
            );
            mark(svg, i, at + 16.0, y);
            text(svg, [at + 38.0, line], "", &series.name);
            at += wide;
        }
        line + LEGEND_LINE
    }

    fn axes(&self, svg: &mut String, x: &Scale, y: &Scale, top: f64) {
        let line = |svg: &mut String, [x1, y1, x2, y2]: [f64; 4], colour: &str| {
            let _ = writeln!(
                svg,
                "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
            );
        };
        for (value, label) in y.ticks() {
            let at = y.at(value);
            line(svg, [LEFT, at, RIGHT, at], "#DDDDDD");
            text(svg, [LEFT - 8.0, at + 4.5], "text-anchor=\"end\"", &label);
        }
        for (value, label) in x.ticks() {
            let at = x.at(value);
            line(svg, [at, top, at, BOTTOM], "#EEEEEE");
            line(svg, [at, BOTTOM, at, BOTTOM + 5.0], "#222222");
            text(svg, [at, BOTTOM + 20.0], "text-anchor=\"middle\"", &label);
        }
        line(svg, [LEFT, top, LEFT, BOTTOM], "#222222");
        line(svg, [LEFT, BOTTOM, RIGHT, BOTTOM], "#222222");
        let (across, up) = (f64::midpoint(LEFT, RIGHT), f64::midpoint(top, BOTTOM));
        text(svg, [across, HEIGHT - 14.0], "text-anchor=\"middle\"", &self.x_label);
        let turned = format!("text-anchor=\"middle\" transform=\"rotate(-90 20 {up:.1})\"");
        text(svg, [20.0, up], &turned, &self.y_label);
    }
}

/// One series: its intervals, its line, its marks.
fn line(svg: &mut String, i: usize, points: &[Point], x: &Scale, y: &Scale) {
    let (colour, dash) = style(i);
    for (at, [low, high]) in points.iter().filter_map(|p| Some((x.at(p.x), p.interval()?))) {
        if low < high {
            let (low, high) = (y.at(low), y.at(high));
            let (left, right) = (at - 4.0, at + 4.0);
            let _ = writeln!(
                svg,
                "<path d=\"M{left:.1} {low:.1}H{right:.1}M{at:.1} {low:.1}V{high:.1}M{left:.1} {high:.1}H{right:.1}\" \
                 stroke=\"{colour}\" fill=\"none\"/>"
            );
        }
    }
    let places: Vec<String> = points.iter().map(|p| format!("{:.1},{:.1}", x.at(p.x), y.at(p.y))).collect();
    if places.len() > 1 {
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" stroke=\"{colour}\" stroke-width=\"2\" fill=\"none\"{dash}/>",
            places.join(" ")
        );
    }
    points.iter().for_each(|p| mark(svg, i, x.at(p.x), y.at(p.y)));
}

/// Colour, and the attribute for the dashes.
fn style(i: usize) -> (&'static str, String) {
    let (colour, dash) = STYLES[i % STYLES.len()];
    let dash = if dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dash}\"") };
    (colour, dash)
}

/// A circle, square, triangle or diamond.
fn mark(svg: &mut String, i: usize, x: f64, y: f64) {
    let (colour, _) = style(i);
    let shape = match i % 4 {
        0 => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\""),
        1 => format!("<path d=\"M{:.1} {:.1}h8v8h-8z\"", x - 4.0, y - 4.0),
        2 => format!("<path d=\"M{x:.1} {:.1}l5 9h-10z\"", y - 5.0),
        _ => format!("<path d=\"M{x:.1} {:.1}l5 5l-5 5l-5 -5z\"", y - 5.0),
    };
    let _ = writeln!(svg, "{shape} fill=\"{colour}\" stroke=\"#FFFFFF\"/>");
}

fn text(svg: &mut String, [x, y]: [f64; 2], attributes: &str, what: &str) {
    let gap = if attributes.is_empty() { "" } else { " " };
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\"{gap}{attributes}>{}</text>", escaped(what));
}

/// As character data of XML 1.0, which has no way to write control characters (section 2.2): a space stands for them.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
