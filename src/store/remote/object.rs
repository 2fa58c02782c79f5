//! Object stores behind URLs, by the crate `object_store`. Its futures run on a thread of their own; whoever
//! asks waits for the answer, but not for ever.

use super::error::{RemoteError, Result};
use super::sealed::{Listed, SealedStore};
use crate::store::lock;
use futures_util::TryStreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::path::Path as Name;
use object_store::{
    ClientConfigKey, ClientOptions, Error, ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutMode,
    PutPayload, RetryConfig,
};
use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The thread that all requests of this process run on, once there is one.
static DRIVER: Mutex<Option<tokio::runtime::Handle>> = Mutex::new(None);

fn driver() -> Result<tokio::runtime::Handle> {
    let mut driver = lock(&DRIVER);
    if let Some(handle) = &*driver {
        return Ok(handle.clone());
    }
    let fail = |e: &dyn std::fmt::Display| RemoteError::Refused(format!("no network thread: {e}"));
    // It fails where somebody else was first, which will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| fail(&e))?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("network".into())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))
        .map_err(|e| fail(&e))?;
    *driver = Some(handle.clone());
    Ok(handle)
}

/// The slowest connection, in bytes per second, over which a large object is still waited for.
const SLOWEST: u64 = 256 << 10;

/// Objects behind a URL.
#[derive(Debug)]
pub struct UrlStore {
    store: Arc<dyn ObjectStore>,
    prefix: Name,
    /// Without credentials.
    url: String,
    /// For one attempt, besides what its bytes take.
    patience: Duration,
    driver: tokio::runtime::Handle,
    /// What to say with a failure.
    hint: Option<String>,
}

/// What to do where there are credentials in a file that nobody reads, and none elsewhere: the crate asks the
/// metadata service of Amazon's machines then, and its failure tells nobody what is wrong.
fn unread_credentials() -> Option<String> {
    const ELSEWHERE: [&str; 5] = [
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_SKIP_SIGNATURE",
    ];
    if ELSEWHERE.iter().any(|name| std::env::var_os(name).is_some()) {
        return None;
    }
    let named = std::env::var_os("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
    let usual = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".aws/credentials"));
    let file = named.or_else(usual).filter(|file| file.exists())?;
    Some(format!(
        "; {} is not read: put its credentials into the environment, with: eval \"$(aws configure \
         export-credentials --format env)\"",
        file.display()
    ))
}

impl UrlStore {
    /// The objects below a URL; credentials are found as the crate finds them, in the environment. An
    /// attempt takes `patience` at most, and what its bytes take on the slowest connection.
    pub fn open(text: &str, patience: Duration) -> Result<Self> {
        let refused = |e: &dyn std::fmt::Display| RemoteError::Refused(format!("{text}: {e}"));
        let parsed: reqwest::Url = text.parse().map_err(|e| refused(&e))?;
        if !parsed.username().is_empty() || parsed.password().is_some() {
            let text = "a URL with credentials is stored and shown in places where they do not belong: \
                        give them in the environment";
            return Err(RemoteError::Refused(text.into()));
        }
        let (scheme, prefix) = ObjectStoreScheme::parse(&parsed)
            .map_err(|_| RemoteError::Refused(format!(
                "{text}: not a URL of an object store; write s3://BUCKET/PATH, gs://, az://, http:// or a directory"
            )))?;
        let driver = driver()?;
        // Tries and pauses are ours, so that all stores have the same.
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let connect = format!("{}ms", patience.as_millis().clamp(100, 5000));
        let whole = "86400s";
        // The builders have no trait in common.
        macro_rules! by {
            ($builder:ident, $key:ident) => {
                $builder::from_env()
                    .with_config($key::Client(ClientConfigKey::ConnectTimeout), &connect)
                    .with_config($key::Client(ClientConfigKey::Timeout), whole)
                    .with_url(text)
                    .with_retry(retry)
                    .build()
                    .map(|s| Arc::new(s) as _)
            };
        }
        let hint = matches!(scheme, ObjectStoreScheme::AmazonS3).then(unread_credentials).flatten();
        let _inside = driver.enter();
        let store: std::result::Result<Arc<dyn ObjectStore>, Error> = match scheme {
            ObjectStoreScheme::AmazonS3 => by!(AmazonS3Builder, AmazonS3ConfigKey),
            ObjectStoreScheme::GoogleCloudStorage => {
                by!(GoogleCloudStorageBuilder, GoogleConfigKey)
            }
            ObjectStoreScheme::MicrosoftAzure => by!(MicrosoftAzureBuilder, AzureConfigKey),
            ObjectStoreScheme::Http => {
                let options = ClientOptions::new()
                    .with_connect_timeout(
                        patience.clamp(Duration::from_millis(100), Duration::from_secs(5)),
                    )
                    .with_timeout_disabled()
                    .with_allow_http(true);
                let mut root = parsed.clone();
                root.set_path("");
                HttpBuilder::new()
                    .with_url(root.as_str())
                    .with_client_options(options)
                    .with_retry(retry)
                    .build()
                    .map(|s| Arc::new(s) as _)
            }
            _ => return Err(refused(&"this kind of URL is not for archives")),
        };
        let more = hint.as_deref().unwrap_or_default();
        let store = store.map_err(|e| refused(&format!("{e}{more}")))?;
        let mut shown = parsed;
        shown.set_query(None);
        Ok(Self { store, prefix, url: shown.to_string(), patience, driver, hint })
    }

    fn name(&self, name: &str) -> Name {
        name.split('/').fold(self.prefix.clone(), Name::join)
    }

    /// Has the network thread do something, and waits.
    fn wait<T: Send + 'static>(
        &self,
        what: &str,
        bytes: u64,
        ask: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = mpsc::sync_channel(1);
        let task = self.driver.spawn(async move {
            let _ = answer.send(ask.await);
        });
        let most = self.patience + Duration::from_secs(bytes / SLOWEST);
        match answered.recv_timeout(most) {
            Ok(done) => done.map_err(|e| self.explained(failure(what, e))),
            Err(RecvTimeoutError::Timeout) => {
                task.abort();
                Err(self.explained(RemoteError::Timeout(what.into())))
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(RemoteError::Unavailable(format!("{what}: the request was lost")))
            }
        }
    }

    /// A failure, and what it may come from.
    fn explained(&self, e: RemoteError) -> RemoteError {
        let with = |text: String| text + self.hint.as_deref().unwrap_or_default();
        match e {
            RemoteError::Refused(text) => RemoteError::Refused(with(text)),
            RemoteError::Unavailable(text) => RemoteError::Unavailable(with(text)),
            RemoteError::Timeout(text) if self.hint.is_some() => {
                RemoteError::Unavailable(with(format!("{text}: no answer in time")))
            }
            e => e,
        }
    }

    fn write(&self, name: &str, bytes: &[u8], mode: PutMode) -> Result<()> {
        let (store, at) = (Arc::clone(&self.store), self.name(name));
        let payload = PutPayload::from(bytes.to_vec());
        let put = async move { store.put_opts(&at, payload, mode.into()).await.map(drop) };
        self.wait(name, bytes.len() as u64, put)
    }
}

/// What an error means to us.
fn failure(name: &str, e: Error) -> RemoteError {
    let text = || {
        let (mut text, mut source) = (e.to_string(), std::error::Error::source(&e));
        while let Some(s) = source {
            let more = s.to_string();
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            source = s.source();
        }
        text
    };
    match &e {
        Error::NotFound { .. } => RemoteError::NotFound(name.into()),
        Error::AlreadyExists { .. } | Error::Precondition { .. } => {
            RemoteError::Exists(name.into())
        }
        Error::NotImplemented { .. } | Error::NotSupported { .. } => {
            RemoteError::NoConditionalPut(name.into())
        }
        Error::PermissionDenied { .. }
        | Error::Unauthenticated { .. }
        | Error::InvalidPath { .. }
        | Error::UnknownConfigurationKey { .. } => RemoteError::Refused(text()),
        _ => RemoteError::Unavailable(text()),
    }
}

impl SealedStore for UrlStore {
    fn get(&self, name: &str) -> Result<Vec<u8>> {
        /// Manifests and the like; what may be larger is read by ranges.
        const SMALL: u64 = 16 << 20;
        let (store, at) = (Arc::clone(&self.store), self.name(name));
        let get = async move { store.get(&at).await?.bytes().await };
        Ok(self.wait(name, SMALL, get)?.into())
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let (store, at) = (Arc::clone(&self.store), self.name(name));
        let bytes = range.end - range.start;
        let get = async move { store.get_range(&at, range).await };
        Ok(self.wait(name, bytes, get)?.into())
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write(name, bytes, PutMode::Overwrite)
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write(name, bytes, PutMode::Create)
    }

    fn delete(&self, name: &str) -> Result<()> {
        let (store, at) = (Arc::clone(&self.store), self.name(name));
        match self.wait(name, 0, async move { store.delete(&at).await }) {
            Err(RemoteError::NotFound(_)) => Ok(()),
            done => done,
        }
    }

    fn list(&self, dir: &str) -> Result<Vec<Listed>> {
        /// A listing of a million objects: a thousand answers of a thousand names.
        const LONG: u64 = 64 << 20;
        let (store, at) = (Arc::clone(&self.store), self.name(dir));
        let list = async move { store.list(Some(&at)).try_collect::<Vec<_>>().await };
        let found = self.wait(dir, LONG, list)?;
        let mut out: Vec<Listed> = found
            .into_iter()
            .filter_map(|m| {
                let last = m.location.filename()?;
                let name = format!("{dir}/{last}");
                Some(Listed { name, bytes: m.size, modified: m.last_modified.into() })
            })
            .collect();
        out.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(out)
    }

    fn url(&self) -> String {
        self.url.clone()
    }
}
