//! Rules about a neighbour's routes: which ones, and what becomes of them.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;

use super::super::check::Errors;
use super::super::{BgpRuleSection, Problem};
use super::AS_TRANS;

/// A rule: what it is about, and what it does. The first one about a route decides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BgpRule {
    /// The prefix is one of these; empty = whatever it is.
    pub prefixes: Vec<PrefixRange>,
    /// The route has one of these; empty = whatever it has.
    pub communities: Vec<RouteTag>,
    /// It was received from one of these ASes (the first of its path); empty = from any.
    pub from_as: Vec<u32>,
    /// It started in one of these ASes (the last of its path); empty = in any.
    pub origin_as: Vec<u32>,
    /// One of these ASes is in its path; empty = whatever is.
    pub through_as: Vec<u32>,
    /// Its path has at least so many ASes, 1 to 255. None = any number.
    pub as_path_at_least: Option<u8>,
    /// What becomes of it; none = it is refused.
    pub accept: Option<RouteChange>,
}

/// What an accepting rule changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct RouteChange {
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// Communities taken away, before others are added.
    pub remove_communities: Vec<RouteTag>,
    /// Communities added.
    pub add_communities: Vec<RouteTag>,
    /// Our own AS once more in front of the path, so many times, 1 to 16. None = not.
    pub prepend: Option<u8>,
}

/// A prefix and what lies inside it, by length: `10.0.0.0/8 ge 16 le 24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PrefixRange {
    /// The covering prefix.
    pub net: IpNet,
    /// Shortest length meant; at least the prefix's own, which is the default.
    pub ge: u8,
    /// Longest length meant; the default is the longest there is.
    pub le: u8,
}

/// A standard or a large community (RFC 1997, RFC 8092).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteTag {
    /// `64512:100`, or a name such as `no-export`.
    Standard(u32),
    /// `4200000000:1:2`.
    Large([u32; 3]),
}

/// Names of standard communities (RFC 1997, RFC 8326).
const NAMES: [(&str, u32); 4] = [
    ("no-export", 0xffff_ff01),
    ("no-advertise", 0xffff_ff02),
    ("no-export-subconfed", 0xffff_ff03),
    ("graceful-shutdown", 0xffff_0000),
];

impl fmt::Display for PrefixRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.net.fmt(f)?;
        if self.ge != self.net.prefix_len() {
            write!(f, " ge {}", self.ge)?;
        }
        if self.le != self.net.max_prefix_len() {
            write!(f, " le {}", self.le)?;
        }
        Ok(())
    }
}

impl FromStr for PrefixRange {
    type Err = Problem;

    fn from_str(text: &str) -> Result<PrefixRange, Problem> {
        let mut words = text.split_whitespace();
        let net: IpNet = words.next().and_then(|word| word.parse().ok()).ok_or(Problem::NotPrefixRange)?;
        if net != net.trunc() {
            return Err(Problem::HostBits { network: net.trunc() });
        }
        let mut range = PrefixRange { net, ge: net.prefix_len(), le: net.max_prefix_len() };
        let mut said = Vec::new();
        while let Some(word) = words.next() {
            let length = words.next().and_then(|word| word.parse().ok()).ok_or(Problem::NotPrefixRange)?;
            match word {
                "ge" => range.ge = length,
                "le" => range.le = length,
                _ => return Err(Problem::NotPrefixRange),
            }
            if said.contains(&word) {
                return Err(Problem::NotPrefixRange);
            }
            said.push(word);
        }
        if range.ge < net.prefix_len() || range.ge > range.le || range.le > net.max_prefix_len() {
            return Err(Problem::PrefixLengths { least: net.prefix_len(), most: net.max_prefix_len() });
        }
        Ok(range)
    }
}

impl fmt::Display for RouteTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RouteTag::Standard(value) => match NAMES.iter().find(|(_, named)| named == value) {
                Some((name, _)) => f.write_str(name),
                None => write!(f, "{}:{}", value >> 16, value & 0xffff),
            },
            RouteTag::Large([global, one, two]) => write!(f, "{global}:{one}:{two}"),
        }
    }
}

impl FromStr for RouteTag {
    type Err = Problem;

    fn from_str(text: &str) -> Result<RouteTag, Problem> {
        if let Some((_, value)) = NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(RouteTag::Standard(*value));
        }
        let numbers: Option<Vec<u32>> = text.split(':').map(|n| n.parse().ok()).collect();
        match numbers.as_deref() {
            Some([upper, lower]) if *upper <= 0xffff && *lower <= 0xffff => {
                Ok(RouteTag::Standard(upper << 16 | lower))
            }
            Some([global, one, two]) => Ok(RouteTag::Large([*global, *one, *two])),
            _ => Err(Problem::NotCommunity),
        }
    }
}

/// Reads the rules of one list. `exported_to_others`: they are about routes sent to a neighbour of another AS.
pub(super) fn check(
    sections: &[BgpRuleSection],
    list: &str,
    exported_to_others: bool,
    errors: &mut Errors,
) -> Vec<BgpRule> {
    let numbered = sections.iter().enumerate();
    numbered
        .map(|(i, section)| check_one(section, &format!("{list}[#{}]", i + 1), exported_to_others, errors))
        .collect()
}

fn check_one(file: &BgpRuleSection, label: &str, exported_to_others: bool, errors: &mut Errors) -> BgpRule {
    let key = |name: &str| format!("{label}.{name}");
    let rejects = match file.action.as_deref() {
        None | Some("accept") => false,
        Some("reject") => true,
        Some(other) => {
            errors.add(key("action"), other, Problem::UnknownType { have: "accept, reject" });
            false
        }
    };
    if rejects {
        let changes = [
            ("local-pref", file.local_pref.is_some()),
            ("med", file.med.is_some()),
            ("add-communities", file.add_communities.is_some()),
            ("remove-communities", file.remove_communities.is_some()),
            ("prepend", file.prepend.is_some()),
        ];
        for (name, _) in changes.into_iter().filter(|(_, there)| *there) {
            errors.absent(key(name), Problem::ChangeOfRejected);
        }
    }
    if exported_to_others && file.local_pref.is_some() {
        errors.absent(key("local-pref"), Problem::PreferenceForOtherAs);
    }
    let number = |name: &str, value: Option<i64>, least: i64, most: i64, errors: &mut Errors| {
        value.map(|value| errors.number(&key(name), value, least, most))
    };
    let wide = |value: Option<i64>| value.and_then(|n| u32::try_from(n).ok());
    let narrow = |value: Option<i64>| value.and_then(|n| u8::try_from(n).ok());
    let most = i64::from(u32::MAX);
    BgpRule {
        prefixes: texts(&key("prefixes"), &file.prefixes, errors),
        communities: texts(&key("communities"), &file.communities, errors),
        from_as: asns(&key("from-as"), &file.from_as, errors),
        origin_as: asns(&key("origin-as"), &file.origin_as, errors),
        through_as: asns(&key("through-as"), &file.through_as, errors),
        as_path_at_least: narrow(number("as-path-at-least", file.as_path_at_least, 1, 255, errors)),
        accept: (!rejects).then(|| RouteChange {
            local_pref: wide(number("local-pref", file.local_pref, 0, most, errors)),
            med: wide(number("med", file.med, 0, most, errors)),
            remove_communities: texts(&key("remove-communities"), &file.remove_communities, errors),
            add_communities: texts(&key("add-communities"), &file.add_communities, errors),
            prepend: narrow(number("prepend", file.prepend, 1, 16, errors)),
        }),
    }
}

/// Values written as text. A list that is there and empty would mean the opposite of what it says.
fn texts<T: FromStr<Err = Problem>>(key: &str, list: &Option<Vec<String>>, errors: &mut Errors) -> Vec<T> {
    if list.as_ref().is_some_and(Vec::is_empty) {
        errors.absent(key, Problem::EmptyList);
    }
    let mut values = Vec::new();
    for text in list.iter().flatten() {
        match text.parse() {
            Ok(value) => values.push(value),
            Err(problem) => errors.add(key, text, problem),
        }
    }
    values
}

fn asns(key: &str, list: &Option<Vec<i64>>, errors: &mut Errors) -> Vec<u32> {
    if list.as_ref().is_some_and(Vec::is_empty) {
        errors.absent(key, Problem::EmptyList);
    }
    let mut values = Vec::new();
    for value in list.iter().flatten() {
        if *value == AS_TRANS {
            errors.add_number(key, *value, Problem::ReservedAs);
        }
        values.extend(u32::try_from(errors.number(key, *value, 1, i64::from(u32::MAX))));
    }
    values
}
