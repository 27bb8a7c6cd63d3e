use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn dual() -> SubnetEnv {
    SubnetEnv {
        networks: vec!["10.244.0.0/16".parse().unwrap()],
        subnet: Some("10.244.1.0/24".parse().unwrap()),
        networks6: vec!["fd00:244::/48".parse().unwrap()],
        subnet6: Some("fd00:244:0:1::/64".parse().unwrap()),
        mtu: 1450,
        ip_masq: true,
    }
}

const DUAL: &str = "FLANNEL_NETWORK=10.244.0.0/16
FLANNEL_SUBNET=10.244.1.1/24
FLANNEL_IPV6_NETWORK=fd00:244::/48
FLANNEL_IPV6_SUBNET=fd00:244:0:1::1/64
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
";

#[test]
fn lines_are_flannels() {
    assert_eq!(dual().render(), DUAL);
    assert_eq!(SubnetEnv::parse(DUAL), Ok(dual()));
    assert_eq!(dual().key().unwrap().to_string(), "10.244.1.0-24&fd00:244:0:1::-64");
    let several = "# a remark\nFLANNEL_NETWORK=10.244.0.0/16,10.245.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1472\n FLANNEL_IPMASQ=false \nOTHER=1\n";
    assert_eq!(SubnetEnv::parse(several).unwrap().networks.len(), 2);
}

#[test]
fn what_the_plugin_refuses_is_refused() {
    for (line, error) in [
        ("FLANNEL_NETWORK", "FLANNEL_NETWORK is missing"),
        ("FLANNEL_SUBNET", "FLANNEL_SUBNET is missing"),
        ("FLANNEL_MTU", "FLANNEL_MTU is missing"),
        ("FLANNEL_IPMASQ", "FLANNEL_IPMASQ is missing"),
    ] {
        let v4 = SubnetEnv { networks6: Vec::new(), subnet6: None, ..dual() };
        let text: Vec<String> =
            v4.render().lines().filter(|l| !l.starts_with(line)).map(str::to_owned).collect();
        assert_eq!(SubnetEnv::parse(&text.join("\n")).unwrap_err().to_string(), error);
    }
    let odd = DUAL.replace("1450", "$(id)");
    assert_eq!(
        SubnetEnv::parse(&odd).unwrap_err().to_string(),
        r#"FLANNEL_MTU = "$(id)": is no number of bytes"#
    );
}

#[test]
fn the_file_is_replaced_whole_and_everybody_may_read_it() {
    let dir = std::env::temp_dir().join(format!("vswitch-subnet-env-{}", std::process::id()));
    let path = dir.join("run/subnet.env");
    dual().write(&path).unwrap();
    SubnetEnv { mtu: 1400, ..dual() }.write(&path).unwrap();
    assert_eq!(SubnetEnv::parse(&fs::read_to_string(&path).unwrap()).unwrap().mtu, 1400);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    fs::remove_dir_all(&dir).unwrap();
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "(FLANNEL_[A-Z0-9_]{1,14}=[0-9a-f.:/,]{0,20}\n|\\PC{0,9}\n){0,9}") {
        let _ = SubnetEnv::parse(&text);
    }
}
