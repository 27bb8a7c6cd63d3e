use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::arbitrary;
use crate::model::Packet;
use crate::naive;

fn all(world: &World) -> Vec<EndpointId> {
    world.endpoints.iter().map(|e| e.id.clone()).collect()
}

/// Asks everybody about everything, by tables and by the oracle.
fn agree(world: &World, compiled: &Compiled, packets: &[Packet]) -> Result<(), TestCaseError> {
    for endpoint in &world.endpoints {
        let policy = compiled.endpoint(&endpoint.id).expect("all endpoints are local");
        for direction in [Direction::Ingress, Direction::Egress] {
            for packet in packets {
                for forwarded in [false, true] {
                    let want = naive::decide(world, endpoint, direction, packet, forwarded);
                    let got = policy.decide(compiled, direction, packet, forwarded);
                    prop_assert_eq!(got, want, "{} {:?} {:?}", endpoint.id, direction, packet);
                    let want = naive::decide_staged(world, endpoint, direction, packet, forwarded);
                    let got = policy.decide_staged(compiled, direction, packet, forwarded).unwrap_or(got);
                    prop_assert_eq!(got, want, "staged: {} {:?} {:?}", endpoint.id, direction, packet);
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(arbitrary::cases(2000))]

    #[test]
    fn tables_say_what_the_oracle_says(
        world in arbitrary::world(),
        packets in vec(arbitrary::packet(), 20),
    ) {
        let compiled = Compiler::new().update(&world, &all(&world));
        agree(&world, &compiled, &packets)?;
    }

    #[test]
    fn after_any_edits_tables_say_what_the_oracle_says(
        mut world in arbitrary::world(),
        edits in vec(vec(arbitrary::edit(), 1..3), 1..8),
        packets in vec(arbitrary::packet(), 6),
    ) {
        let mut compiler = Compiler::new();
        compiler.update(&world, &all(&world));
        for step in edits {
            step.into_iter().for_each(|edit| edit.apply(&mut world));
            let compiled = compiler.update(&world, &all(&world));
            agree(&world, &compiled, &packets)?;
        }
    }
}
