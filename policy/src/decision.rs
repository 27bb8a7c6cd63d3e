//! What comes out of asking policy about a packet. Plain values, made and used on whatever thread asks.

/// How many matched Log rules a decision can name; further ones go unnamed.
pub const MAX_LOGS: usize = 4;

/// The answer for one packet, one endpoint and one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// May it pass?
    pub allow: bool,
    /// What decided.
    pub by: By,
    /// The Log rules that matched on the way.
    pub logs: Logs,
}

/// What decided. Numbers are positions in the endpoint's table for the direction: every rule of every policy that
/// applies, in order of evaluation, and one number for each end of a tier that denies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// The rule with this number.
    Rule(u32),
    /// The end of a tier, which denies.
    TierEnd(u32),
    /// Policies apply, and every tier was left without a decision.
    Default,
    /// Only policies that do not count between a pod and its own node apply.
    OwnNode,
    /// A pod speaks to itself.
    Itself,
    /// No policy applies.
    NoPolicy,
}

/// The lowest numbers of matched Log rules, ascending, at most [`MAX_LOGS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Logs {
    len: u8,
    numbers: [u32; MAX_LOGS],
}

impl Logs {
    /// The numbers, ascending.
    #[must_use]
    pub fn as_slice(&self) -> &[u32] {
        &self.numbers[..usize::from(self.len)]
    }

    /// Notes a rule, in any order; the highest number is forgotten when there are too many.
    pub(crate) fn note(&mut self, number: u32) {
        let len = usize::from(self.len);
        let at = self.as_slice().partition_point(|have| *have < number);
        if at == MAX_LOGS || self.as_slice().get(at) == Some(&number) {
            return;
        }
        let end = len.min(MAX_LOGS - 1);
        self.numbers.copy_within(at..end, at + 1);
        self.numbers[at] = number;
        self.len = (end + 1) as u8;
    }

    /// Forgets the rules from this number on.
    pub(crate) fn truncate(&mut self, from: u32) {
        let len = self.as_slice().partition_point(|have| *have < from);
        self.numbers[len..].fill(0);
        self.len = len as u8;
    }
}
