//! All keys that begin alike, as of one revision, page by page.
//!
//! Pages grow, for etcd counts all keys that are left for each; and shrink where an answer would be larger than is read. A
//! single value that is larger comes as its name alone.

use super::client::Client;
use super::error::CallError;
use super::wire::{KeyValue, RangeRequest, prefix_end};

/// Keys of the first page.
const FIRST: i64 = 500;
/// Most keys of a page: of a million there must not be many pages.
const MOST: i64 = 1 << 15;

/// The pages that are left.
pub(super) struct Pages<'a> {
    client: &'a Client,
    question: RangeRequest,
    /// Only names are wanted.
    names: bool,
    most: i64,
    cluster: u64,
    over: bool,
}

/// Some keys, in order; never none.
pub(super) struct Page {
    pub(super) keys: Vec<KeyValue>,
    /// They are there without their values, one of which is larger than is read.
    pub(super) too_large: bool,
}

impl<'a> Pages<'a> {
    /// The keys that begin with `prefix`; without their values if `names`.
    pub(super) fn of(client: &'a Client, prefix: &[u8], names: bool) -> Pages<'a> {
        let question = RangeRequest {
            key: prefix.to_vec(),
            range_end: prefix_end(prefix),
            limit: FIRST,
            keys_only: names,
            ..RangeRequest::default()
        };
        Pages { client, question, names, most: MOST, cluster: 0, over: false }
    }

    /// The next page; none = that was all.
    ///
    /// # Errors
    /// The call's. The pages so far were of one revision all the same.
    pub(super) async fn next(&mut self) -> Result<Option<Page>, CallError> {
        if self.over {
            return Ok(None);
        }
        let question = &mut self.question;
        let answer = loop {
            match self.client.range(question.clone()).await {
                Err(CallError::TooLarge { .. }) if question.limit > 1 => {
                    self.most = question.limit / 2;
                    question.limit = (question.limit / 8).max(1);
                }
                Err(CallError::TooLarge { .. }) if !question.keys_only => question.keys_only = true,
                answer => break answer?,
            }
        };
        let header = answer.header.unwrap_or_default();
        if question.revision == 0 {
            (question.revision, self.cluster) = (header.revision, header.cluster_id);
        }
        let too_large = question.keys_only && !self.names;
        question.keys_only = self.names;
        question.limit = (question.limit * 2).min(self.most);
        self.over = !answer.more;
        let Some(last) = answer.kvs.last() else {
            self.over = true;
            return Ok(None);
        };
        question.key = [&last.key[..], &[0]].concat();
        Ok(Some(Page { keys: answer.kvs, too_large }))
    }

    /// The revision that they are of, and the cluster's number; both 0 before the first page.
    pub(super) fn seen(&self) -> (i64, u64) {
        (self.question.revision, self.cluster)
    }
}
