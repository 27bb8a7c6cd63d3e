//! Calico's IPReservation: addresses of pools that no pod is given unless it asks for them.

use std::sync::Arc;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use super::super::decode;
use super::super::field::{At, Errors};
use super::Doc;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    #[serde(rename = "reservedCIDRs")]
    reserved: Option<Vec<String>>,
}

pub(in super::super) fn read(value: &Value, errors: &mut Errors) -> Option<Arc<[IpNet]>> {
    let doc: Doc<Spec> = decode(value, errors)?;
    doc.metadata.check_labels(errors);
    let at = At::root("spec");
    let at = at.key("reservedCIDRs");
    let mut nets = Vec::new();
    for (i, text) in doc.spec.reserved.unwrap_or_default().iter().enumerate() {
        // As Calico reads it, a bare address is a range of one.
        let net =
            text.parse::<IpNet>().ok().or_else(|| Some(IpNet::from(text.parse::<std::net::IpAddr>().ok()?)));
        errors.syntax(&at.index(i), net.is_some(), text, "address or range of addresses");
        nets.extend(net.map(|net| net.trunc()));
    }
    Some(nets.into())
}

#[cfg(test)]
mod tests {
    use super::super::super::{Item, Object, read as read_text};

    fn nets(spec: &str) -> Result<String, String> {
        let text = format!(
            "apiVersion: projectcalico.org/v3\nkind: IPReservation\nmetadata: {{name: r}}\nspec: {{{spec}}}\n"
        );
        match read_text(text.as_bytes()).unwrap().pop().unwrap() {
            Item::Known { object: Ok(Object::Reservation(nets)), .. } => {
                Ok(nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
            }
            Item::Known { object: Err(refused), .. } => Err(refused.errors[0].to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ranges_and_addresses() {
        assert_eq!(
            nets(r#"reservedCIDRs: [10.1.2.0/24, 10.1.3.7, "fd00::/120"]"#).unwrap(),
            "10.1.2.0/24 10.1.3.7/32 fd00::/120"
        );
        assert_eq!(nets("").unwrap(), "");
        let wrong = nets("reservedCIDRs: [10.1.2.0/24, ten]").unwrap_err();
        assert!(wrong.contains("spec.reservedCIDRs[1]") && wrong.contains("ten"), "{wrong}");
        assert!(nets("reserved: []").unwrap_err().contains("reserved"));
    }
}
