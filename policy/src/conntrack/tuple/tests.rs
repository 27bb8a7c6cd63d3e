use super::*;
use proptest::prelude::*;

fn mapped(n: u32) -> u128 {
    0xffff_0000_0000 | u128::from(n)
}

prop_compose! {
    fn arb_tuple()(
        src in 0u32..4, dst in 0u32..4, sport: u16, dport: u16,
        proto in prop_oneof![Just(TCP), Just(UDP), Just(ICMP), Just(ICMPV6), any::<u8>()],
    ) -> Tuple {
        Tuple { src: mapped(src), dst: mapped(dst), sport, dport, proto }
    }
}

fn reversed(t: &Tuple) -> Tuple {
    Tuple { src: t.dst, dst: t.src, sport: t.dport, dport: t.sport, proto: t.proto }
}

fn echo(src: u32, dst: u32, kind: u16, id: u16, proto: u8) -> Tuple {
    Tuple { src: mapped(src), dst: mapped(dst), sport: kind << 8, dport: id, proto }
}

proptest! {
    #[test]
    fn both_directions_have_one_key(t in arb_tuple()) {
        prop_assume!(t.icmp().is_none());
        let ((key, from_b), (back, back_from_b)) = (t.key(), reversed(&t).key());
        prop_assert_eq!(key, back);
        prop_assert_eq!(from_b != back_from_b, (t.src, t.sport) != (t.dst, t.dport));
        prop_assert_eq!(key.tuple(from_b), t);
    }

    #[test]
    fn a_key_gives_its_tuple_back(t in arb_tuple()) {
        let (key, from_b) = t.key();
        let back = key.tuple(from_b);
        prop_assert_eq!(back.key(), (key, from_b));
        prop_assert_eq!((back.src, back.dst, back.proto), (t.src, t.dst, t.proto));
    }

    #[test]
    fn an_echo_meets_its_answer_and_nothing_else(a in 0u32..9, b in 9u32..18, id: u16, other: u16) {
        for (proto, request, reply) in [(ICMP, 8, 0), (ICMPV6, 128, 129)] {
            let (key, from_b) = echo(a, b, request, id, proto).key();
            let (answer, answer_from_b) = echo(b, a, reply, id, proto).key();
            prop_assert_eq!(key, answer);
            prop_assert_ne!(from_b, answer_from_b);
            prop_assert_ne!(key, echo(b, a, request, id, proto).key().0, "asked the other way");
            prop_assert_ne!(key, echo(a, b, reply, id, proto).key().0);
            // A message that is no echo, with the echo's identifier as its type and code.
            let odd = Tuple { sport: id, dport: 0, ..echo(a, b, 0, 0, proto) };
            if odd.icmp() == Some(Icmp::Other) {
                prop_assert_ne!(key, odd.key().0);
            }
            prop_assert_eq!(key == echo(a, b, request, other, proto).key().0, id == other);
        }
    }
}
