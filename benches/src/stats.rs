//! Geometric means and bootstrap intervals of ratios.

/// A ratio with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// Geometric mean.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

const RESAMPLES: usize = 4000;

/// The geometric mean of `ratios` (all above 0) with a percentile bootstrap interval. The resampling is seeded, so
/// the same ratios give the same interval. `None` without ratios.
#[must_use]
#[allow(clippy::cast_precision_loss)] // dozens of pairs
pub fn ratio(ratios: &[f64]) -> Option<Ratio> {
    if ratios.is_empty() || ratios.iter().any(|r| r.is_nan() || *r <= 0.0) {
        return None;
    }
    let logs: Vec<f64> = ratios.iter().map(|r| r.ln()).collect();
    let n = logs.len();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let sum: f64 = (0..n)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    logs[usize::try_from(state % n as u64).unwrap_or(0)]
                })
                .sum();
            sum / n as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    Some(Ratio {
        mean: (logs.iter().sum::<f64>() / n as f64).exp(),
        low: means[RESAMPLES / 40].exp(),
        high: means[RESAMPLES - 1 - RESAMPLES / 40].exp(),
    })
}

/// The arithmetic mean; 0 of nothing.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// The value below which `share` (0 to 1) of the values lie; 0 of nothing.
#[must_use]
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_geometric_and_inside_its_interval() {
        let got = ratio(&[0.5, 2.0, 1.0, 1.0]).unwrap();
        assert!((got.mean - 1.0).abs() < 1e-12);
        assert!(got.low < 1.0 && got.high > 1.0, "{got:?}");
    }

    #[test]
    fn equal_ratios_leave_no_doubt() {
        let got = ratio(&[0.7; 6]).unwrap();
        assert!((got.low - 0.7).abs() < 1e-9 && (got.high - 0.7).abs() < 1e-9);
    }

    #[test]
    fn a_run_that_moved_nothing_is_no_ratio() {
        assert_eq!(ratio(&[1.0, 0.0]), None);
        assert_eq!(ratio(&[]), None);
    }

    #[test]
    fn quantiles() {
        assert!((quantile(&[3.0, 1.0, 2.0], 0.5) - 2.0).abs() < 1e-12);
        assert!((quantile(&[3.0, 1.0, 2.0], 1.0) - 3.0).abs() < 1e-12);
    }
}
