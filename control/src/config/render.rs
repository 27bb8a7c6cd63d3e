//! The configuration in force, as a file that says the same with every default written out.

use std::fmt::{Display, Write as _};

use super::{Bgp, BgpRule, Config, EtcdSettings, Neighbour, Password, Store, Tunnel};
use crate::fleet::Backend;

fn quoted(value: impl Display) -> String {
    super::error::quoted(&value.to_string())
}

fn list<T: Display>(values: &[T]) -> String {
    let items: Vec<String> = values.iter().map(quoted).collect();
    format!("[{}]", items.join(", "))
}

struct Page(String);

impl Page {
    fn section(&mut self, name: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        let _ = writeln!(self.0, "{gap}{name}");
    }

    fn line(&mut self, key: &str, value: impl Display) {
        let _ = writeln!(self.0, "{key} = {value}");
    }

    fn text(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.line(key, quoted(value));
        }
    }

    fn remark(&mut self, text: &str) {
        let _ = writeln!(self.0, "# {text}");
    }
}

pub(super) fn render(config: &Config) -> String {
    let mut page = Page(String::new());
    let node = &config.node;
    page.section("[node]");
    page.line("name", quoted(&node.name));
    page.line("uplink", quoted(&node.uplink));
    page.text("address", node.address);
    page.text("address6", node.address6);
    page.line("state-dir", quoted(node.state_dir.display()));
    page.line("run-dir", quoted(node.run_dir.display()));
    page.line("workers", node.workers);
    page.line("offload", node.offload);
    let without: Vec<&str> = node.without.iter().map(|path| path.name()).collect();
    page.line("without", format_args!("{without:?}"));
    page.line("probe-peers", node.probe_peers);

    page.section("[network]");
    let is_static = matches!(config.store, Store::Static { .. });
    if is_static {
        page.line("cluster-cidrs", list(&config.network.cluster_cidrs));
        page.line("pod-cidrs", list(&config.network.pod_cidrs));
    } else {
        page.remark("cluster-cidrs, pod-cidrs: from the store");
    }
    match config.network.mtu {
        Some(mtu) => page.line("mtu", mtu),
        None if !is_static => {
            page.line("mtu", format_args!("0 # the MTU of {} less the tunnel's overhead", node.uplink));
        }
        None => {
            let overhead = config.overhead();
            page.line("mtu", format_args!("0 # the MTU of {} less {overhead}", node.uplink));
        }
    }
    page.line("masquerade", config.network.masquerade);

    page.section("[tunnel]");
    if is_static {
        page.line("type", quoted(config.tunnel.kind()));
    } else {
        page.remark("type and its settings: from the store");
    }
    match &config.tunnel {
        Tunnel::Vxlan { vni, port, vtep_mac, cross_subnet } => {
            if is_static {
                page.line("vni", vni);
                page.line("port", port);
            }
            match vtep_mac {
                Some(mac) => page.line("vtep-mac", quoted(mac)),
                None => page.remark("vtep-mac: made once, kept in state-dir"),
            }
            if is_static {
                page.line("cross-subnet", cross_subnet);
            }
        }
        Tunnel::Udp { port, cross_subnet } => {
            page.line("port", port);
            page.line("cross-subnet", cross_subnet);
        }
        Tunnel::Ipip { cross_subnet } => page.line("cross-subnet", cross_subnet),
        Tunnel::Direct => {}
    }

    page.section("[store]");
    match &config.store {
        Store::Static { manifests } => {
            page.line("type", quoted("static"));
            page.text("manifests", manifests.as_ref().map(|path| path.display()));
        }
        Store::Etcd(settings) => etcd(&mut page, settings),
    }

    page.section("[ipam]");
    page.line("type", quoted(config.ipam.kind()));

    for peer in &config.peers {
        page.section("[[peer]]");
        page.line("name", quoted(&peer.name));
        page.text("address", peer.address);
        page.text("address6", peer.address6);
        if peer.pod_cidrs.is_empty() {
            page.remark("pod-cidrs: as BGP tells");
        } else {
            page.line("pod-cidrs", list(&peer.pod_cidrs));
        }
        page.text("vtep-mac", peer.vtep_mac);
        page.text("tunnel", peer.backend.map(Backend::kind));
    }
    if let Some(bgp) = &config.bgp {
        render_bgp(&mut page, bgp);
    }
    if let Some(listen) = config.metrics {
        page.section("[metrics]");
        page.line("listen", quoted(listen));
    }
    page.0
}

fn render_bgp(page: &mut Page, bgp: &Bgp) {
    let secret = |page: &mut Page, key: &str, password: &Option<Password>| {
        if password.is_some() {
            page.remark(&format!("{key}: set, and not shown"));
        }
    };
    page.section("[bgp]");
    page.line("asn", bgp.asn);
    page.line("router-id", quoted(bgp.router_id));
    match bgp.listen {
        Some(listen) => page.line("listen", quoted(listen)),
        None => page.remark("listen: port 179 of the node's addresses"),
    }
    page.text("cluster-id", bgp.cluster_id);
    page.line("mesh", bgp.mesh);
    secret(page, "mesh-password", &bgp.mesh_password);
    for peer in &bgp.peers {
        page.section("[[bgp.peer]]");
        match peer.who {
            Neighbour::At(addr) => page.line("address", quoted(addr)),
            Neighbour::In(net) => page.line("prefix", quoted(net)),
        }
        page.line("asn", peer.asn);
        page.line("port", peer.port);
        secret(page, "password", &peer.password);
        for (key, value) in [("ttl-security", peer.ttl_security), ("multihop", peer.multihop)] {
            if let Some(value) = value {
                page.line(key, value);
            }
        }
        page.line("passive", peer.passive);
        page.line("client", peer.client);
        page.line("next-hop-self", peer.next_hop_self);
        if let Some(most) = peer.max_prefixes {
            page.line("max-prefixes", most);
        }
        for (key, nets) in [("import", &peer.import), ("export", &peer.export)] {
            if !nets.is_empty() {
                page.line(key, list(nets));
            }
        }
        for (key, rules) in [("import-rule", &peer.import_rules), ("export-rule", &peer.export_rules)] {
            rules.iter().for_each(|rule| render_rule(page, key, rule));
        }
    }
}

fn render_rule(page: &mut Page, key: &str, rule: &BgpRule) {
    fn some<T: Display>(page: &mut Page, key: &str, values: &[T]) {
        if !values.is_empty() {
            page.line(key, list(values));
        }
    }
    fn number(page: &mut Page, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            page.line(key, value);
        }
    }
    page.section(&format!("[[bgp.peer.{key}]]"));
    some(page, "prefixes", &rule.prefixes);
    some(page, "communities", &rule.communities);
    for (key, ases) in
        [("from-as", &rule.from_as), ("origin-as", &rule.origin_as), ("through-as", &rule.through_as)]
    {
        if !ases.is_empty() {
            page.line(key, format_args!("{ases:?}"));
        }
    }
    number(page, "as-path-at-least", rule.as_path_at_least);
    let Some(change) = &rule.accept else { return page.line("action", quoted("reject")) };
    page.line("action", quoted("accept"));
    number(page, "local-pref", change.local_pref);
    number(page, "med", change.med);
    some(page, "remove-communities", &change.remove_communities);
    some(page, "add-communities", &change.add_communities);
    number(page, "prepend", change.prepend);
}

fn etcd(page: &mut Page, settings: &EtcdSettings) {
    page.line("type", quoted("etcd"));
    page.line("endpoints", list(&settings.endpoints));
    page.line("prefix", quoted(&settings.prefix));
    page.line(
        "subnet-env",
        quoted(settings.subnet_env.as_deref().map(|p| p.display().to_string()).unwrap_or_default()),
    );
    page.text("ca", settings.ca.as_ref().map(|path| path.display()));
    page.text("cert", settings.identity.as_ref().map(|(cert, _)| cert.display()));
    page.text("key", settings.identity.as_ref().map(|(_, key)| key.display()));
    if let Some((name, _)) = &settings.user {
        page.line("username", quoted(name));
        // Whoever looks over a shoulder, or pastes this into a report, must not show it.
        page.remark("password: set, and not shown");
    }
}
