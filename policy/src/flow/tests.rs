use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

fn arb_key() -> impl Strategy<Value = FlowKey> {
    (any::<u128>(), any::<u128>(), any::<u16>(), any::<u16>(), any::<u8>(), 0u8..2, any::<u32>()).prop_map(
        |(src, dst, sport, dport, proto, frag, ingress)| FlowKey {
            src,
            dst,
            sport,
            dport,
            proto,
            frag,
            ingress,
        },
    )
}

proptest! {
    #[test]
    fn equal_keys_hash_equal_and_every_bit_counts(key in arb_key(), s0: u64, s1: u64, bit in 0usize..330) {
        let secret = HashKey::new(s0, s1);
        let mut other = key;
        match bit {
            0..128 => other.src ^= 1 << bit,
            128..256 => other.dst ^= 1 << (bit - 128),
            256..272 => other.sport ^= 1 << (bit - 256),
            272..288 => other.dport ^= 1 << (bit - 272),
            288..296 => other.proto ^= 1 << (bit - 288),
            296..298 => other.frag ^= 1 << (bit - 296),
            _ => other.ingress ^= 1 << (bit - 298),
        }
        prop_assert_eq!(key.hash(&secret), key.hash(&secret.clone()));
        prop_assert_ne!(key.hash(&secret), other.hash(&secret));
    }

    #[test]
    fn reply_of_reply_is_the_flow(key in arb_key(), ingress: u32) {
        prop_assert_eq!(key.reply(ingress).reply(key.ingress), key);
    }
}

#[test]
fn another_seed_is_another_hash() {
    let key = FlowKey { src: 1, dst: 2, sport: 3, dport: 4, proto: 6, frag: 0, ingress: 5 };
    let hashes: HashSet<u64> =
        (0..1000).flat_map(|s| [HashKey::new(s, 0), HashKey::new(0, s + 1)]).map(|k| key.hash(&k)).collect();
    assert_eq!(hashes.len(), 2000);
}

/// Flows as a scan makes them (one field counts up) spread over buckets as random numbers would: with 2^16 flows in
/// 2^12 buckets the fullest one holds 16 on average and never anything near 64.
#[test]
fn counting_flows_fill_buckets_evenly() {
    let secret = HashKey::new(7, 11);
    let base = FlowKey { src: 0xffff_0af4_0102, dst: 0xffff_0af4_0203, proto: 17, ..FlowKey::default() };
    let scans: [fn(FlowKey, u32) -> FlowKey; 4] = [
        |k, i| FlowKey { dport: i as u16, ..k },
        |k, i| FlowKey { sport: i as u16, ..k },
        |k, i| FlowKey { dst: k.dst & !0xffff | u128::from(i), ..k },
        |k, i| FlowKey { src: k.src ^ u128::from(i) << 64, ..k },
    ];
    for scan in scans {
        for shift in [0, 20, 52] {
            let mut load = vec![0u32; 1 << 12];
            for i in 0..1 << 16 {
                load[(scan(base, i).hash(&secret) >> shift) as usize & 0xfff] += 1;
            }
            assert!(*load.iter().max().unwrap() < 64, "bits {shift}.. are uneven");
        }
    }
}

#[test]
fn the_secret_is_not_printed() {
    assert_eq!(format!("{:?}", HashKey::new(1, 2)), "HashKey(secret)");
}
