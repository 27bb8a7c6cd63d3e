//! Calico's Tier.

use std::sync::Arc;

use policy::model::{Order, Tier, TierEnd};
use serde::Deserialize;
use serde_json::Value;

use super::super::decode;
use super::super::field::{At, Errors, Reason};
use super::Doc;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    order: Option<f64>,
    default_action: Option<String>,
}

pub(in super::super) fn read(name: &Arc<str>, value: &Value, errors: &mut Errors) -> Option<Arc<Tier>> {
    let doc: Doc<Spec> = decode(value, errors)?;
    doc.metadata.check_labels(errors);
    let at = At::root("spec");
    let end = match doc.spec.default_action.as_deref().unwrap_or("Deny") {
        "Deny" => TierEnd::Deny,
        "Pass" => TierEnd::Pass,
        other => {
            let reason = Reason::Choice { value: other.to_owned(), allowed: "Deny, Pass" };
            errors.add(&at.key("defaultAction"), reason);
            return None;
        }
    };
    let tier = Tier { name: Arc::clone(name), order: Order(doc.spec.order), end };
    if Tier::predefined().iter().any(|predefined| predefined.name == tier.name && *predefined != tier) {
        errors.add(&at, Reason::Conflict("order and defaultAction of a predefined tier cannot be others"));
    }
    Some(Arc::new(tier))
}
