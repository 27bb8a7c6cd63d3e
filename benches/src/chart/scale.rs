//! From values to places on the paper, and where the ticks are.

/// One axis: the values it spans, and the places of its two ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    log: bool,
    /// Between two ticks of a linear axis.
    step: f64,
    ends: [f64; 2],
}

impl Scale {
    /// Spans `values`, all finite and, for a logarithmic axis, above 0. `ends` are the places of the least and of the
    /// largest value.
    pub(super) fn new(values: impl Iterator<Item = f64>, log: bool, ends: [f64; 2]) -> Scale {
        let (mut low, mut high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            (low, high) = (1.0, 1.0);
        }
        // One value alone stands in the middle.
        if high - low <= f64::EPSILON * high.abs() {
            (low, high) = if log { (low / 2.0, high * 2.0) } else { (low - 1.0, high + 1.0) };
        }
        Scale { low, high, log, step: step(high - low), ends }
    }

    /// The same, its ends moved outward to the next ticks. Of a linear axis only.
    pub(super) fn rounded(self) -> Scale {
        let step = self.step;
        Scale { low: (self.low / step).floor() * step, high: (self.high / step).ceil() * step, ..self }
    }

    /// Where a value is.
    pub(super) fn at(&self, value: f64) -> f64 {
        let on = |v: f64| if self.log { v.log10() } else { v };
        let share = (on(value) - on(self.low)) / (on(self.high) - on(self.low));
        self.ends[0] + share * (self.ends[1] - self.ends[0])
    }

    /// The values that get a tick, with what is written there.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let within = |v: &f64| (self.low * 0.999_999..=self.high * 1.000_001).contains(v);
        if self.log {
            let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
            let digits: &[f64] = if last - first > 3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
            let all = (first..=last).flat_map(|e| digits.iter().map(move |digit| digit * 10f64.powi(e)));
            return all
                .filter(within)
                .map(|v| (v, number(v, (-v.log10().floor()).max(0.0) as usize)))
                .collect();
        }
        let step = self.step;
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let (first, last) =
            ((self.low / step - 1e-9).ceil() as i64, (self.high / step + 1e-9).floor() as i64);
        (first..=last).map(|n| n as f64 * step).map(|v| (v, number(v, decimals))).collect()
    }
}

/// 1, 2 or 5 times a power of ten, so that there are 4 to 8 steps in `span`.
fn step(span: f64) -> f64 {
    let raw = span / 5.0;
    let power = 10f64.powf(raw.log10().floor());
    let round = [(1.5, 1.0), (3.5, 2.0), (7.5, 5.0)].into_iter().find(|(below, _)| raw / power < *below);
    power * round.map_or(10.0, |(_, digit)| digit)
}

/// With so many decimals, and a comma after each thousand.
fn number(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut out = String::from(if value < 0.0 { "-" } else { "" });
    for (i, digit) in whole.char_indices() {
        if i > 0 && (whole.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale) -> Vec<String> {
        scale.ticks().into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn a_logarithmic_axis_gives_each_decade_the_same_room() {
        let scale = Scale::new([1.0, 1000.0].into_iter(), true, [0.0, 300.0]);
        for (value, place) in [(1.0, 0.0), (10.0, 100.0), (100.0, 200.0), (1000.0, 300.0)] {
            assert!((scale.at(value) - place).abs() < 1e-9, "{value} is at {}", scale.at(value));
        }
    }

    #[test]
    fn ticks_of_a_logarithmic_axis_stay_inside_it() {
        let scale = |high| Scale::new([2.0, high].into_iter(), true, [0.0, 1.0]);
        assert_eq!(labels(scale(250.0)), ["2", "5", "10", "20", "50", "100", "200"]);
        assert_eq!(labels(scale(100_000.0)), ["10", "100", "1,000", "10,000", "100,000"]);
    }

    #[test]
    fn ticks_of_a_linear_axis_are_round() {
        let scale = |values: [f64; 2]| Scale::new(values.into_iter(), false, [100.0, 0.0]).rounded();
        assert_eq!(labels(scale([0.0, 1.07])), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0", "1.2"]);
        // The topmost tick is the top, also where rounding makes the span wider.
        assert_eq!(labels(scale([0.0, 1.62])).last().unwrap(), "1.8");
        assert!(scale([0.0, 1.62]).at(1.8).abs() < 1e-9);
        assert_eq!(labels(scale([-3.0, 7.0])), ["-4", "-2", "0", "2", "4", "6", "8"]);
        assert_eq!(labels(scale([0.0, 4_200_000.0])).last().unwrap(), "5,000,000");
        assert!((scale([0.0, 1.07]).at(0.6) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn one_value_is_in_the_middle_and_none_is_no_harm() {
        for log in [false, true] {
            assert!((Scale::new([7.0].into_iter(), log, [0.0, 10.0]).at(7.0) - 5.0).abs() < 1e-9);
            assert!(!Scale::new([].into_iter(), log, [0.0, 10.0]).ticks().is_empty());
        }
    }
}
