use super::super::Transport;
use super::super::fixture::*;

#[test]
fn sweeping_in_small_pieces_meets_every_entry_once() {
    let table = table(1200);
    for i in 0..300 {
        table.open_flow(&udp(1, 2, i, 53), Transport::Other, &opening(1), at(0)).unwrap();
    }
    for budget in [0, 1, 16, 17, 100, u32::MAX] {
        let (mut from, mut live, mut pieces) = (0, 0, 0);
        loop {
            let swept = table.sweep(from, budget, at(60));
            assert_eq!(swept.freed, 0);
            (from, live, pieces) = (swept.next, live + swept.live, pieces + 1);
            if from == 0 {
                break;
            }
        }
        let ways = budget.div_ceil(16).max(1).saturating_mul(16);
        assert_eq!((live, pieces), (300, table.slots().div_ceil(ways)), "budget {budget}");
    }
    assert_eq!(sweep_all(&table, at(61)), (300, 0));
    assert_eq!(table.sweep(u32::MAX, 16, at(61)).next, 0, "an index of another table");
}
