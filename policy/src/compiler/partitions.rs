//! Partitions: for a list of selectors, the classes of identities that none of them tells apart. Class 0 is selected
//! by none. Tables with the same selectors share a partition; a class keeps its number as long as the partition
//! lives, so a table has to be rebuilt only when a class is added.

use std::collections::HashMap;
use std::sync::Arc;

use super::selectors::Selectors;
use crate::compiled::Identity;

struct Partition {
    /// Selectors' numbers, ascending.
    selectors: Box<[u32]>,
    /// By class: the selectors that cover it.
    classes: Vec<Box<[u32]>>,
    numbers: HashMap<Box<[u32]>, u32>,
    used: bool,
}

#[derive(Default)]
pub(super) struct Partitions {
    slots: Vec<Option<Partition>>,
    numbers: HashMap<Box<[u32]>, u32>,
    /// Class by identity.
    maps: Vec<Arc<Vec<u32>>>,
}

impl Partitions {
    /// The partition by these selectors (ascending, distinct), made if it is not there.
    pub(super) fn get(&mut self, by: Vec<u32>, selectors: &Selectors) -> u32 {
        if let Some(number) = self.numbers.get(&*by) {
            return *number;
        }
        let by: Box<[u32]> = by.into();
        let (partition, map) = Partition::new(by.clone(), selectors);
        let number = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.maps.push(Arc::default());
            self.slots.len() - 1
        });
        self.slots[number] = Some(partition);
        self.maps[number] = Arc::new(map);
        self.numbers.insert(by, number as u32);
        number as u32
    }

    /// By class: the selectors that cover it.
    pub(super) fn classes(&self, number: u32) -> &[Box<[u32]>] {
        self.slots[number as usize].as_ref().map_or(&[], |p| &p.classes)
    }

    /// Class by identity, by partition.
    pub(super) fn maps(&self) -> &[Arc<Vec<u32>>] {
        &self.maps
    }

    /// Puts identities that stand for something new into their classes. Returns the partitions that got a class.
    pub(super) fn update(&mut self, changed: &[Identity], selectors: &Selectors) -> Vec<u32> {
        let mut grown = Vec::new();
        for (number, (slot, map)) in (0u32..).zip(self.slots.iter_mut().zip(&mut self.maps)) {
            let Some(partition) = slot else { continue };
            let before = partition.classes.len();
            for id in changed {
                let covering =
                    partition.selectors.iter().copied().filter(|s| selectors.bitmap(*s).contains(*id));
                let class = partition.class(covering.collect());
                if map.get(*id as usize).copied().unwrap_or(0) != class {
                    let map = Arc::make_mut(map);
                    map.resize(map.len().max(*id as usize + 1), 0);
                    map[*id as usize] = class;
                }
            }
            if partition.classes.len() != before {
                grown.push(number);
            }
        }
        grown
    }

    /// Drops the partitions that are not in use.
    pub(super) fn retain(&mut self, in_use: impl Iterator<Item = u32>) {
        for number in in_use {
            if let Some(partition) = &mut self.slots[number as usize] {
                partition.used = true;
            }
        }
        for (slot, map) in self.slots.iter_mut().zip(&mut self.maps) {
            match slot {
                Some(partition) if partition.used => partition.used = false,
                Some(partition) => {
                    self.numbers.remove(&partition.selectors);
                    (*slot, *map) = (None, Arc::default());
                }
                None => {}
            }
        }
    }
}

impl Partition {
    /// Splits class after class, selector after selector; the work is the size of the bitmaps.
    fn new(by: Box<[u32]>, selectors: &Selectors) -> (Partition, Vec<u32>) {
        let mut map: Vec<u32> = Vec::new();
        let mut classes: Vec<Vec<u32>> = vec![Vec::new()];
        let mut split: Vec<u32> = vec![0];
        for s in &by {
            let mut touched = Vec::new();
            for id in selectors.bitmap(*s).iter() {
                let id = id as usize;
                if id >= map.len() {
                    map.resize(id + 1, 0);
                }
                let class = map[id] as usize;
                if split[class] == 0 {
                    split[class] = classes.len() as u32;
                    touched.push(class);
                    let mut covering = classes[class].clone();
                    covering.push(*s);
                    classes.push(covering);
                    split.push(0);
                }
                map[id] = split[class];
            }
            touched.into_iter().for_each(|class| split[class] = 0);
        }
        // Those that were split until nothing was left of them go.
        let mut partition = Partition {
            selectors: by,
            classes: vec![Box::default()],
            numbers: HashMap::from([(Box::default(), 0)]),
            used: false,
        };
        let mut renamed = vec![0; classes.len()];
        for class in &mut map {
            let old = *class as usize;
            if renamed[old] == 0 && old != 0 {
                renamed[old] = partition.class(std::mem::take(&mut classes[old]));
            }
            *class = renamed[old];
        }
        (partition, map)
    }

    /// The class of what these selectors cover, made if it is not there.
    fn class(&mut self, covering: Vec<u32>) -> u32 {
        let next = self.classes.len() as u32;
        if let Some(class) = self.numbers.get(&*covering) {
            return *class;
        }
        let covering: Box<[u32]> = covering.into();
        self.classes.push(covering.clone());
        self.numbers.insert(covering, next);
        next
    }
}
