//! Calico's IPPool.

use std::sync::Arc;

use ipnet::IpNet;
use policy::selector::Selector;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::super::decode;
use super::super::field::{At, Errors, Reason};
use super::super::labels::Flat;
use super::super::meta::LabelMap;
use super::{Doc, Whose, parse};

/// A range that pods of all nodes get addresses of, block by block.
#[derive(Clone, Debug, PartialEq)]
pub struct IpPool {
    /// Its addresses; host bits clear.
    pub cidr: IpNet,
    /// Prefix length of its blocks: 20 to 32, or 116 to 128; not less than that of `cidr`.
    pub block_size: u8,
    /// No new pod gets an address of it; those that have one keep it.
    pub disabled: bool,
    /// Only a pod that names it gets an address of it.
    pub manual: bool,
    /// Pods may have addresses of it: `allowedUses` has `Workload`.
    pub workloads: bool,
    /// How packets for its pods travel; none = neither `ipipMode` nor `vxlanMode` is there, and the network says.
    pub mode: Option<PoolMode>,
    /// What its pods send to addresses of no pool and no node's range leaves under the node's own address.
    pub nat_outgoing: bool,
    /// BGP does not announce it.
    pub disable_bgp_export: bool,
    nodes: Selector,
    namespaces: Selector,
}

/// How packets for a pool's pods travel between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolMode {
    /// Routed as they are.
    Never,
    /// In IPv4.
    Ipip {
        /// Only where the node is on another subnet.
        cross_subnet: bool,
    },
    /// In VXLAN, with the segment and the MAC of the node's lease.
    Vxlan {
        /// As above.
        cross_subnet: bool,
    },
}

impl PoolMode {
    /// `Never` for one of the two is the same as nothing as long as the other is on; for both, or alone, it is meant.
    fn of(vxlan: Option<&str>, ipip: Option<&str>) -> Option<PoolMode> {
        let across = |mode: &str| match mode {
            "Always" => Some(false),
            "CrossSubnet" => Some(true),
            _ => None,
        };
        let given = |mode: Option<&str>| mode.is_some_and(|mode| !mode.is_empty());
        match (vxlan.and_then(across), ipip.and_then(across)) {
            (Some(cross_subnet), _) => Some(PoolMode::Vxlan { cross_subnet }),
            (_, Some(cross_subnet)) => Some(PoolMode::Ipip { cross_subnet }),
            _ => (given(vxlan) || given(ipip)).then_some(PoolMode::Never),
        }
    }
}

impl IpPool {
    /// May pods of a node with these labels have addresses of it?
    pub(crate) fn serves_node(&self, labels: &LabelMap) -> bool {
        self.nodes.matches(&Flat::own(labels).done())
    }

    /// May pods of a namespace with these labels?
    pub(crate) fn serves_namespace(&self, labels: &LabelMap) -> bool {
        self.namespaces.matches(&Flat::own(labels).done())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    cidr: String,
    vxlan_mode: Option<String>,
    ipip_mode: Option<String>,
    nat_outgoing: Option<bool>,
    disabled: Option<bool>,
    #[serde(rename = "disableBGPExport")]
    disable_bgp_export: Option<bool>,
    block_size: Option<i64>,
    node_selector: Option<String>,
    namespace_selector: Option<String>,
    allowed_uses: Option<Vec<String>>,
    assignment_mode: Option<String>,
    // Of Calico's first versions.
    #[serde(rename = "ipip")]
    _ipip: Option<IgnoredAny>,
    #[serde(rename = "nat-outgoing")]
    _nat: Option<IgnoredAny>,
}

pub(in super::super) fn read(value: &Value, errors: &mut Errors) -> Option<Arc<IpPool>> {
    let doc: Doc<Spec> = decode(value, errors)?;
    doc.metadata.check_labels(errors);
    let (spec, at) = (doc.spec, At::root("spec"));
    let at_cidr = at.key("cidr");
    let cidr = spec.cidr.parse::<IpNet>().ok().filter(|net| net.network() == net.addr());
    errors.syntax(&at_cidr, cidr.is_some(), &spec.cidr, "range of addresses with clear host bits");
    let mut choice = |field: &'static str, value: &str, allowed: &'static str| {
        let good = allowed.split(", ").any(|one| one == value);
        if !good {
            errors.add(&at.key(field), Reason::Choice { value: value.chars().take(300).collect(), allowed });
        }
    };
    let modes = "Never, Always, CrossSubnet";
    let (vxlan, ipip) = (spec.vxlan_mode.as_deref(), spec.ipip_mode.as_deref());
    for (field, mode) in [("vxlanMode", vxlan), ("ipipMode", ipip)] {
        if let Some(mode) = mode.filter(|mode| !mode.is_empty()) {
            choice(field, mode, modes);
        }
    }
    let assignment = spec.assignment_mode.as_deref().unwrap_or("Automatic");
    choice("assignmentMode", assignment, "Automatic, Manual");
    let uses = spec.allowed_uses.unwrap_or_default();
    for one in &uses {
        choice("allowedUses", one, "Workload, Tunnel, LoadBalancer");
    }
    let on = |mode: Option<&str>| mode.is_some_and(|mode| !mode.is_empty() && mode != "Never");
    if on(vxlan) && on(ipip) {
        errors.add(&at, Reason::Conflict("vxlanMode and ipipMode exclude each other"));
    }
    let selector = |field: &'static str, text: Option<&str>, errors: &mut Errors| match text {
        None | Some("") => Some(Selector::All),
        Some(text) => parse(text, Whose::Own, &at.key(field), errors),
    };
    let nodes = selector("nodeSelector", spec.node_selector.as_deref(), errors);
    let namespaces = selector("namespaceSelector", spec.namespace_selector.as_deref(), errors);
    let cidr = cidr?;
    let (least, most, default) = if cidr.addr().is_ipv4() { (20, 32, 26) } else { (116, 128, 122) };
    if on(ipip) && !cidr.addr().is_ipv4() {
        errors.add(&at.key("ipipMode"), Reason::Conflict("is of no use for IPv6"));
    }
    let size = spec.block_size.filter(|size| *size != 0).unwrap_or(default);
    let at_size = at.key("blockSize");
    if !(least..=most).contains(&size) {
        errors.add(&at_size, Reason::Range { value: size, min: least, max: most });
    } else if size < i64::from(cidr.prefix_len()) {
        errors.add(&at_cidr, Reason::Conflict("is smaller than one of its blocks (blockSize)"));
    }
    Some(Arc::new(IpPool {
        cidr,
        block_size: u8::try_from(size).unwrap_or(cidr.max_prefix_len()),
        disabled: spec.disabled.unwrap_or(false),
        manual: assignment == "Manual",
        workloads: uses.is_empty() || uses.iter().any(|one| one == "Workload"),
        mode: PoolMode::of(vxlan, ipip),
        nat_outgoing: spec.nat_outgoing.unwrap_or(false),
        disable_bgp_export: spec.disable_bgp_export.unwrap_or(false),
        nodes: nodes?,
        namespaces: namespaces?,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::super::{Item, Object, read as read_text};
    use super::*;

    fn pool(spec: &str) -> Result<Arc<IpPool>, String> {
        let text = format!(
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: p}}\nspec: {{{spec}}}\n"
        );
        match read_text(text.as_bytes()).unwrap().pop().unwrap() {
            Item::Known { object: Ok(Object::Pool(pool)), .. } => Ok(pool),
            Item::Known { object: Err(refused), .. } => Err(refused.errors[0].to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_are_calicos() {
        let v4 = pool("cidr: 10.0.0.0/16, ipipMode: CrossSubnet, natOutgoing: true").unwrap();
        assert_eq!((v4.block_size, v4.disabled, v4.manual, v4.workloads), (26, false, false, true));
        assert!(v4.serves_node(&LabelMap::new()) && v4.serves_namespace(&LabelMap::new()));
        assert_eq!(pool("cidr: 'fd00:10::/64', vxlanMode: Always").unwrap().block_size, 122);
        let some = pool("cidr: 10.0.0.0/24, blockSize: 28, nodeSelector: zone == 'a', allowedUses: [Tunnel]")
            .unwrap();
        let zone = |zone: &str| LabelMap::from([("zone".to_owned(), zone.to_owned())]);
        assert!(some.serves_node(&zone("a")) && !some.serves_node(&zone("b")) && !some.workloads);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (spec, error) in [
            (
                "cidr: 10.0.0.1/16",
                "spec.cidr: \"10.0.0.1/16\" is not a valid range of addresses with clear host bits",
            ),
            ("cidr: 10.0.0.0/16, blockSize: 19", "spec.blockSize: 19 is not in 20..=32"),
            ("cidr: 'fd00::/64', blockSize: 64", "spec.blockSize: 64 is not in 116..=128"),
            ("cidr: 10.0.0.0/28", "spec.cidr: is smaller than one of its blocks (blockSize)"),
            (
                "cidr: 10.0.0.0/16, vxlanMode: Always, ipipMode: Always",
                "spec: vxlanMode and ipipMode exclude each other",
            ),
            (
                "cidr: 10.0.0.0/16, assignmentMode: x",
                "spec.assignmentMode: \"x\" must be one of Automatic, Manual",
            ),
            ("cidr: 10.0.0.0/16, nodeSelector: 'a =='", "spec.nodeSelector"),
            ("cidr: 10.0.0.0/16, size: 3", "spec.size"),
        ] {
            let found = pool(spec).unwrap_err();
            assert!(found.starts_with(error), "{spec}: {found}");
        }
    }
}
