//! Calls to etcd: several members, deadlines, TLS, and a user's token.
//!
//! A call goes to the member that answered last; when it cannot be reached, each of the others is tried once. A channel
//! that failed is thrown away, and a new one reads the certificates again. Dead connections are found by HTTP/2 pings.
//! Shared by the tasks of the store's thread; nothing here waits while it holds the lock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic_prost::ProstCodec;

use super::error::CallError;
use super::wire::{AuthenticateRequest, AuthenticateResponse, LeaseRequest, LeaseResponse};
use super::wire::{WatchCreateRequest, WatchRequest, WatchResponse};
use super::{Timing, jitter};
use crate::config::EtcdSettings;

/// Largest answer that is read. etcd's own limit for what it is sent is 1.5 MiB.
pub(super) const MOST_ANSWER: usize = 4 << 20;

const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// Connections and who we are.
#[derive(Debug, Clone)]
pub(super) struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: EtcdSettings,
    timing: Timing,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    /// The member in use, by its place among the endpoints.
    member: usize,
    channels: HashMap<usize, Channel>,
    token: Option<MetadataValue<Ascii>>,
}

/// A watch that was created: what comes, and what keeps it open.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) member: String,
    stream: tonic::Streaming<WatchResponse>,
    /// Ending the stream of requests ends the watch.
    _requests: mpsc::Sender<WatchRequest>,
}

impl Watch {
    /// The next answer; waits as long as there is none.
    pub(super) async fn next(&mut self) -> Result<WatchResponse, CallError> {
        match self.stream.message().await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => {
                Err(CallError::Transport { endpoint: self.member.clone(), err: "the watch ended".to_owned() })
            }
            Err(status) => Err(CallError::of(&self.member, &status)),
        }
    }
}

impl Client {
    pub(super) fn new(settings: EtcdSettings, timing: Timing) -> Client {
        // Many nodes that start at once spread over the members.
        let member = jitter(settings.endpoints.len());
        let now = Mutex::new(Now { member, ..Now::default() });
        Client(Arc::new(Inner { settings, timing, now }))
    }

    pub(super) fn settings(&self) -> &EtcdSettings {
        &self.0.settings
    }

    pub(super) fn timing(&self) -> &Timing {
        &self.0.timing
    }

    /// The member in use.
    pub(super) fn member(&self) -> String {
        let at = self.now().member;
        self.0.settings.endpoints.get(at).cloned().unwrap_or_default()
    }

    fn now(&self) -> std::sync::MutexGuard<'_, Now> {
        // Whoever panicked with it held left nothing half done: each change is one assignment.
        self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token is asked for again with the next call.
    pub(super) fn forget_token(&self) {
        self.now().token = None;
    }

    /// The connection to the member in use failed: it is made anew, and the next member is tried first.
    pub(super) fn failed(&self, endpoint: &str) {
        let endpoints = &self.0.settings.endpoints;
        let mut now = self.now();
        let at = now.member;
        if endpoints.get(at).is_some_and(|known| known == endpoint) {
            now.channels.remove(&at);
            now.member = (at + 1) % endpoints.len().max(1);
        }
    }

    fn channel(&self) -> Result<(String, Channel), CallError> {
        let at = self.now().member;
        let name = self.0.settings.endpoints.get(at).cloned().unwrap_or_default();
        if let Some(channel) = self.now().channels.get(&at) {
            return Ok((name, channel.clone()));
        }
        let channel = self.endpoint(&name)?.connect_lazy();
        self.now().channels.insert(at, channel.clone());
        Ok((name, channel))
    }

    fn endpoint(&self, name: &str) -> Result<Endpoint, CallError> {
        let wrong = |err: &dyn std::error::Error| {
            let cause = err.source().map_or(String::new(), |cause| format!(": {cause}"));
            CallError::Settings { endpoint: name.to_owned(), err: format!("{err}{cause}") }
        };
        let (settings, timing) = (&self.0.settings, &self.0.timing);
        let endpoint = Endpoint::from_shared(name.to_owned())
            .map_err(|err| wrong(&err))?
            .connect_timeout(timing.connect)
            .http2_keep_alive_interval(timing.ping)
            .keep_alive_timeout(timing.pong)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        if !name.starts_with("https://") {
            return Ok(endpoint);
        }
        let read = |key, path: &std::path::Path| {
            std::fs::read(path).map_err(|err| CallError::File {
                key,
                path: path.to_owned(),
                err: Arc::new(err),
            })
        };
        let mut tls = ClientTlsConfig::new();
        if let Some(ca) = &settings.ca {
            tls = tls.ca_certificate(Certificate::from_pem(read("ca", ca)?));
        }
        if let Some((cert, key)) = &settings.identity {
            tls = tls.identity(Identity::from_pem(read("cert", cert)?, read("key", key)?));
        }
        endpoint.tls_config(tls).map_err(|err| wrong(&err))
    }

    /// One call, wherever it succeeds first.
    async fn call<Q, A>(&self, path: &'static str, question: Q) -> Result<A, CallError>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let mut authenticated = false;
        let mut left = self.0.settings.endpoints.len();
        loop {
            let result = self.call_here(path, question.clone()).await;
            match result {
                Err(err) if err.wants_token() && self.0.settings.user.is_some() && !authenticated => {
                    authenticated = true;
                    self.forget_token();
                }
                Err(err) if err.elsewhere() && left > 1 => left -= 1,
                result => return result,
            }
        }
    }

    async fn call_here<Q, A>(&self, path: &'static str, question: Q) -> Result<A, CallError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let token = self.token().await?;
        self.bare(path, question, token).await
    }

    /// One call to the member in use.
    async fn bare<Q, A>(
        &self,
        path: &'static str,
        question: Q,
        token: Option<MetadataValue<Ascii>>,
    ) -> Result<A, CallError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let (name, channel) = self.channel().inspect_err(|_| self.failed(&self.member()))?;
        let call = async {
            let mut grpc = Grpc::new(channel).max_decoding_message_size(MOST_ANSWER);
            grpc.ready().await.map_err(|err| transport(&name, &err))?;
            let mut request = Request::new(question);
            with_token(&mut request, token);
            let codec = ProstCodec::<Q, A>::default();
            let answer = grpc.unary(request, PathAndQuery::from_static(path), codec).await;
            answer.map(tonic::Response::into_inner).map_err(|status| CallError::of(&name, &status))
        };
        self.within(&name, call).await
    }

    async fn within<T>(
        &self,
        name: &str,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let limit = self.0.timing.call;
        let late = || CallError::Timeout { endpoint: name.to_owned(), seconds: limit.as_secs_f32() };
        let result = timeout(limit, call).await.unwrap_or_else(|_| Err(late()));
        if result.as_ref().is_err_and(CallError::elsewhere) {
            self.failed(name);
        }
        result
    }

    async fn token(&self) -> Result<Option<MetadataValue<Ascii>>, CallError> {
        let Some((name, password)) = &self.0.settings.user else { return Ok(None) };
        if let Some(token) = self.now().token.clone() {
            return Ok(Some(token));
        }
        let question = AuthenticateRequest { name: name.clone(), password: password.clone() };
        let answer: AuthenticateResponse = match self.bare(AUTHENTICATE, question, None).await {
            Ok(answer) => answer,
            // Without authentication everybody may do everything: the user is of no account.
            Err(CallError::Refused { text, .. }) if text.contains("authentication is not enabled") => {
                return Ok(None);
            }
            Err(err) => return Err(err),
        };
        let token = MetadataValue::try_from(answer.token).ok();
        self.now().token.clone_from(&token);
        Ok(token)
    }

    pub(super) async fn range(
        &self,
        question: super::wire::RangeRequest,
    ) -> Result<super::wire::RangeResponse, CallError> {
        self.call(RANGE, question).await
    }

    pub(super) async fn txn(
        &self,
        question: super::wire::TxnRequest,
    ) -> Result<super::wire::TxnResponse, CallError> {
        self.call(TXN, question).await
    }

    /// A new lease: its id, and how long it lives.
    pub(super) async fn grant(&self, ttl: Duration) -> Result<LeaseResponse, CallError> {
        let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).max(1);
        self.call(GRANT, super::wire::LeaseGrantRequest { ttl }).await
    }

    /// The lease ends now, and its keys with it.
    pub(super) async fn revoke(&self, id: i64) -> Result<super::wire::HeaderOnly, CallError> {
        self.call(REVOKE, LeaseRequest { id }).await
    }

    /// The lease lives as long again as it was granted; 0 = there is none.
    pub(super) async fn keep_alive(&self, id: i64) -> Result<Duration, CallError> {
        let token = self.token().await?;
        let (name, channel) = self.channel()?;
        let call = async {
            let mut grpc = Grpc::new(channel);
            grpc.ready().await.map_err(|err| transport(&name, &err))?;
            let mut request =
                Request::new(tokio_stream::once(LeaseRequest { id }).chain(tokio_stream::pending()));
            with_token(&mut request, token);
            let codec = ProstCodec::<LeaseRequest, LeaseResponse>::default();
            let path = PathAndQuery::from_static(KEEP_ALIVE);
            let answer = grpc.streaming(request, path, codec).await;
            let mut stream = answer.map_err(|status| CallError::of(&name, &status))?.into_inner();
            let answer = stream.message().await.map_err(|status| CallError::of(&name, &status))?;
            let ttl = answer.map_or(0, |answer| answer.ttl);
            Ok(Duration::from_secs(u64::try_from(ttl).unwrap_or(0)))
        };
        let result = self.within(&name, call).await;
        if result.as_ref().is_err_and(CallError::wants_token) {
            self.forget_token();
        }
        result
    }

    /// A watch from `revision` on, with its first answer, which says that it was created or why not.
    pub(super) async fn watch(
        &self,
        create: WatchCreateRequest,
    ) -> Result<(Watch, WatchResponse), CallError> {
        let token = self.token().await?;
        let (name, channel) = self.channel()?;
        let call = async {
            let mut grpc = Grpc::new(channel).max_decoding_message_size(MOST_ANSWER);
            grpc.ready().await.map_err(|err| transport(&name, &err))?;
            let (requests, more) = mpsc::channel(1);
            let _ = requests.send(WatchRequest { create: Some(create) }).await;
            let mut request = Request::new(ReceiverStream::new(more));
            with_token(&mut request, token);
            // A member that lost its leader ends the watch instead of going silent.
            request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
            let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
            let answer = grpc.streaming(request, PathAndQuery::from_static(WATCH), codec).await;
            let stream = answer.map_err(|status| CallError::of(&name, &status))?.into_inner();
            let mut watch = Watch { member: name.clone(), stream, _requests: requests };
            let first = watch.next().await?;
            Ok((watch, first))
        };
        let result = self.within(&name, call).await;
        if result.as_ref().is_err_and(CallError::wants_token) {
            self.forget_token();
        }
        result
    }
}

fn with_token<T>(request: &mut Request<T>, token: Option<MetadataValue<Ascii>>) {
    if let Some(token) = token {
        request.metadata_mut().insert("token", token);
    }
}

fn transport(name: &str, err: &tonic::transport::Error) -> CallError {
    let cause = std::error::Error::source(err).map_or(String::new(), |cause| format!(": {cause}"));
    CallError::Transport { endpoint: name.to_owned(), err: format!("{err}{cause}") }
}
