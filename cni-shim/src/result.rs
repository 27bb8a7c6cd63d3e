//! Results: ours in the form of each version, and those of the plugins before us.

use control::api::{AttachResult, Prev, PrevInterface, PrevIp, code};
use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::spec::{CniError, Version};

fn undecodable(what: &str) -> CniError {
    CniError::new(code::DECODE, format!("prevResult: {what}"))
}

fn list<'a>(prev: &'a Map<String, Value>, key: &str) -> Result<&'a [Value], CniError> {
    match prev.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(undecodable(&format!("{key} is not a list"))),
    }
}

/// What CHECK compares with.
pub(crate) fn prev(prev: &Map<String, Value>) -> Result<Prev, CniError> {
    let mut out = Prev::default();
    for item in list(prev, "interfaces")? {
        let text = |key| item.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = text("name");
        if name.is_empty() {
            return Err(undecodable("an interface has no name"));
        }
        out.interfaces.push(PrevInterface { name, mac: text("mac"), sandbox: text("sandbox") });
    }
    for item in list(prev, "ips")? {
        let address = item.get("address").and_then(Value::as_str).and_then(|text| text.parse::<IpNet>().ok());
        let Some(address) = address else { return Err(undecodable("an address is unusable")) };
        let interface = match item.get("interface") {
            None | Some(Value::Null) => None,
            Some(index) => {
                let index = index.as_u64().and_then(|n| u32::try_from(n).ok());
                match index.filter(|&n| (n as usize) < out.interfaces.len()) {
                    Some(n) => Some(n),
                    None => return Err(undecodable("an address belongs to no interface")),
                }
            }
        };
        out.ips.push(PrevIp { address, interface });
    }
    Ok(out)
}

/// ADD's result: ours behind that of the plugins before us.
pub(crate) fn merge(
    version: Version,
    before: Option<&Map<String, Value>>,
    ours: &AttachResult,
    dns: Option<&Value>,
) -> Result<Value, CniError> {
    let empty = Map::new();
    let before = before.unwrap_or(&empty);
    let mut interfaces = list(before, "interfaces")?.to_vec();
    let mut ips = list(before, "ips")?.to_vec();
    let mut routes = list(before, "routes")?.to_vec();
    for ip in &mut ips {
        fit_ip(version, ip)?;
    }

    let index = interfaces.len();
    let mut interface = json!({
        "name": ours.interface.name,
        "mac": ours.interface.mac,
        "sandbox": ours.interface.sandbox,
    });
    if version.has_mtu() {
        interface["mtu"] = json!(ours.mtu);
    }
    interfaces.push(interface);
    for ip in &ours.ips {
        let mut value = json!({ "address": ip.address, "gateway": ip.gateway, "interface": index });
        fit_ip(version, &mut value)?;
        ips.push(value);
    }
    for route in &ours.routes {
        let mut value = json!({ "dst": route.dst });
        if let Some(gw) = route.gw {
            value["gw"] = json!(gw);
        }
        routes.push(value);
    }

    let mut result =
        json!({ "cniVersion": version.name(), "interfaces": interfaces, "ips": ips, "routes": routes });
    if let Some(dns) = dns.or_else(|| before.get("dns")).filter(|dns| dns.is_object()) {
        result["dns"] = dns.clone();
    }
    Ok(result)
}

/// Before 1.0.0 an address names its family.
fn fit_ip(version: Version, ip: &mut Value) -> Result<(), CniError> {
    let Value::Object(fields) = ip else { return Err(undecodable("an address is not an object")) };
    if version.has_ip_version() {
        let v6 = fields.get("address").and_then(Value::as_str).is_some_and(|text| text.contains(':'));
        fields.insert("version".to_owned(), json!(if v6 { "6" } else { "4" }));
    } else {
        fields.remove("version");
    }
    Ok(())
}
