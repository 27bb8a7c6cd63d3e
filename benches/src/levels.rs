//! A goal with a third level, and the words for what a figure reached of it.

use crate::rows::Goal;

/// What a figure must be, what is aimed at, and where it would be better than anything published.
#[derive(Clone, Copy, Debug)]
pub struct Levels {
    goal: Goal,
    record: Option<f64>,
}

impl Levels {
    /// Two levels.
    #[must_use]
    pub const fn of(goal: Goal) -> Levels {
        Levels { goal, record: None }
    }

    /// Three.
    #[must_use]
    pub const fn with_record(goal: Goal, record: f64) -> Levels {
        Levels { goal, record: Some(record) }
    }

    /// Whether the figure is acceptable. What is no number is not.
    #[must_use]
    pub fn met(&self, value: f64) -> bool {
        self.goal.met(value)
    }

    /// The levels, and the best one that the figure reaches.
    #[must_use]
    pub fn verdict(&self, value: f64) -> String {
        let (must, target) = self.goal.bounds().unzip();
        let levels = [("must", must), ("target", target), ("record", self.record)];
        let levels = || levels.iter().filter_map(|(name, level)| Some((name, (*level)?)));
        let less = matches!(self.goal, Goal::AtMost(..));
        let reached = |level: f64| if less { value <= level } else { value >= level };
        let listed: Vec<String> = levels().map(|(name, level)| format!("{name} {level}")).collect();
        let best = levels().rfind(|(_, level)| reached(*level));
        let best = best.map_or("MISSED".to_owned(), |(name, _)| format!("{name} reached"));
        format!("{}: {best}", listed.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_or_less_is_better() {
        let throughput = Levels::of(Goal::AtLeast(0.95, 0.99));
        assert_eq!(throughput.verdict(1.01), "must 0.95, target 0.99: target reached");
        assert_eq!(throughput.verdict(0.96), "must 0.95, target 0.99: must reached");
        assert_eq!(throughput.verdict(0.94), "must 0.95, target 0.99: MISSED");
        let memory = Levels::with_record(Goal::AtMost(64.0, 32.0), 16.0);
        assert_eq!(memory.verdict(20.0), "must 64, target 32, record 16: target reached");
        assert_eq!(memory.verdict(16.0), "must 64, target 32, record 16: record reached");
        assert!(memory.met(64.0) && !memory.met(65.0));
    }

    #[test]
    fn no_number_reaches_nothing() {
        for levels in [Levels::of(Goal::AtLeast(0.9, 1.0)), Levels::of(Goal::AtMost(2.0, 1.0))] {
            assert!(!levels.met(f64::NAN));
            assert!(levels.verdict(f64::NAN).ends_with("MISSED"));
        }
    }
}
