//! What the functions of this module need of a store.

/// A key as it lies there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub key: String,
    /// Its value; empty where only names were asked for.
    pub value: Vec<u8>,
    /// The revision that wrote it last; never 0.
    pub revision: i64,
}

/// One key of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub key: String,
    /// What it is to hold; none = it is to go.
    pub value: Option<Vec<u8>>,
    /// The revision that must have written it last; 0 = it must not be there.
    pub over: i64,
}

/// A store of keys with transactions. Calls may fail at any time; of one that failed nobody knows whether it was carried
/// out.
pub trait KeyStore: Sync {
    /// Why a call brought nothing.
    type Error: std::error::Error + Send;

    /// A key; none when it is not there.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Entry>, Self::Error>> + Send;

    /// All keys that begin so, in order, as of one revision; without their values if `names`.
    fn list(&self, prefix: &str, names: bool)
    -> impl Future<Output = Result<Vec<Entry>, Self::Error>> + Send;

    /// All changes or none; false = a key is not as it must be.
    fn commit(&self, changes: Vec<Change>) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Waits a little before the next attempt, longer with each: others are at the same keys.
    fn pause(&self, attempt: u32) -> impl Future<Output = ()> + Send;
}
