use super::*;

fn chart(series: Vec<Series>) -> Chart {
    Chart {
        title: "Throughput".into(),
        subtitle: "Linux 6.18, offloads on, 0123abc, 2026-11-27".into(),
        x_label: "pods".into(),
        y_label: "Gbit/s".into(),
        x_log: true,
        series,
    }
}

fn series(name: &str, points: &[[f64; 4]]) -> Series {
    let points = points.iter().map(|&[x, y, low, high]| Point { x, y, low, high }).collect();
    Series { name: name.into(), points }
}

/// Elements of a document in order, after a check that each tag is closed and no text holds what only markup may.
fn elements(svg: &str) -> Vec<String> {
    let (mut open, mut seen) = (Vec::new(), Vec::new());
    let mut rest = svg;
    while let Some((before, behind)) = rest.split_once('<') {
        assert!(!before.contains('>'), "a stray > in {before:?}");
        let (tag, after) = behind.split_once('>').expect("a tag ends");
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
            continue;
        }
        let name = tag.split([' ', '/']).next().unwrap();
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes of <{tag}>");
        seen.push(name.to_owned());
        if !tag.ends_with('/') {
            open.push(name.to_owned());
        }
    }
    assert_eq!(open, Vec::<String>::new());
    assert_eq!(rest.trim(), "");
    for entity in svg.split('&').skip(1) {
        assert!(
            ["amp;", "lt;", "gt;", "quot;"].iter().any(|known| entity.starts_with(known)),
            "&{entity:.8}"
        );
    }
    seen
}

fn count(svg: &str, element: &str) -> usize {
    elements(svg).iter().filter(|name| *name == element).count()
}

#[test]
fn names_cannot_break_out_of_the_text() {
    let svg = chart(vec![series("a<b & \"c\"\u{1}</text><script>", &[[1.0, 2.0, 1.0, 3.0]])]).svg();
    assert_eq!(count(&svg, "script"), 0);
    assert!(svg.contains("a&lt;b &amp; &quot;c&quot; &lt;/text&gt;&lt;script&gt;</text>"), "{svg}");
}

#[test]
fn every_series_has_a_line_marks_and_intervals() {
    let of = |factor: f64| [2.0, 10.0, 250.0].map(|x| [x, factor * x, factor * x * 0.9, factor * x * 1.1]);
    let svg = chart(vec![series("one", &of(1.0)), series("two", &of(2.0))]).svg();
    assert_eq!(count(&svg, "polyline"), 2);
    // The first series' marks are circles: three points and the legend's.
    assert_eq!(count(&svg, "circle"), 4);
    // The second's are squares; each interval of both is a path as well.
    assert_eq!(count(&svg, "path"), 4 + 6);
    assert!(svg.contains("fill=\"#FFFFFF\"/>"), "a white ground");
    assert!(svg.contains(">one</text>") && svg.contains(">two</text>"));
}

#[test]
fn decades_are_equally_wide() {
    let svg = chart(vec![series("a", &[1.0, 10.0, 100.0].map(|x| [x, 1.0, 1.0, 1.0]))]).svg();
    let (_, line) = svg.split_once("points=\"").unwrap();
    let places: Vec<f64> = line
        .split_once('"')
        .unwrap()
        .0
        .split(' ')
        .map(|place| place.split(',').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(places, [100.0, 430.0, 760.0]);
}

#[test]
fn what_has_no_place_is_left_out() {
    let points = [
        [f64::NAN, 1.0, 1.0, 1.0],
        [10.0, f64::INFINITY, 1.0, 1.0],
        [0.0, 1.0, 1.0, 1.0],
        [10.0, 1.0, f64::NAN, 2.0],
        [100.0, 2.0, 1.0, f64::INFINITY],
    ];
    let svg = chart(vec![series("a", &points)]).svg();
    assert_eq!(count(&svg, "circle"), 3, "two points and the legend's");
    assert_eq!(count(&svg, "path"), 0);
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
}

#[test]
fn nothing_at_all_is_a_chart_too() {
    for series in [vec![], vec![Series::default()], vec![series("one", &[[5.0, 0.0, 0.0, 0.0]])]] {
        for x_log in [false, true] {
            let svg = Chart { x_log, ..chart(series.clone()) }.svg();
            assert!(count(&svg, "text") > 4, "{svg}");
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}

#[test]
fn a_long_legend_takes_more_lines_and_leaves_room() {
    let many: Vec<Series> =
        (0..9).map(|i| series(&format!("a long name of series {i}"), &[[1.0, 1.0, 1.0, 1.0]])).collect();
    let top = |chart: &Chart| chart.legend(&mut String::new());
    assert!(top(&chart(many.clone())) >= top(&chart(many[..1].to_vec())) + 2.0 * LEGEND_LINE);
    elements(&chart(many).svg());
}
