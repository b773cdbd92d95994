//! An object store in memory whose answers get lost: by seed, each operation may fail before it did anything,
//! after it did all, or do it later, when nobody waits any more.

use std::fmt;
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use sluice_testkit::Random;

/// What is done wrong, one of so many operations each; 0 is never.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Answers 503 and does nothing.
    pub(crate) refuse: u64,
    /// Puts the object, and the answer is lost.
    pub(crate) lose: u64,
    /// The put times out, and is done before a later operation.
    pub(crate) late: u64,
    /// Says that the name is taken, as a store does while another put of it is under way.
    pub(crate) conflict: u64,
    /// Replaces what is there although it is asked not to.
    pub(crate) replaces: bool,
}

/// A put that nobody waits for any more.
type Late = (u64, Path, PutPayload, PutOptions);

#[derive(Debug)]
struct State {
    chance: Random,
    faults: Faults,
    late: Vec<Late>,
    failed: u64,
}

/// Clones share the objects and the faults.
#[derive(Clone, Debug)]
pub(crate) struct FaultyStore {
    objects: Arc<InMemory>,
    state: Arc<Mutex<State>>,
}

enum Fate {
    Done,
    Refused,
    Lost,
    Late,
    Conflict,
}

impl FaultyStore {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let state = State { chance: Random::new(seed), faults, late: Vec::new(), failed: 0 };
        Self { objects: Arc::default(), state: Arc::new(Mutex::new(state)) }
    }

    /// From here on all goes well; what is late comes at the next operation.
    pub(crate) fn heal(&self) {
        let mut state = self.state.lock().unwrap();
        state.faults = Faults::default();
        state.late.iter_mut().for_each(|late| late.0 = 0);
    }

    /// Operations that failed.
    pub(crate) fn failed(&self) -> u64 {
        self.state.lock().unwrap().failed
    }

    /// Copies all objects below a folder.
    pub(crate) fn copy_to(&self, folder: &FilePath) {
        let copy = async {
            let metas: Vec<ObjectMeta> = self.objects.list(None).try_collect().await?;
            for meta in metas {
                let path = folder.join(meta.location.as_ref());
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, self.objects.get(&meta.location).await?.bytes().await?).unwrap();
            }
            Ok::<(), Error>(())
        };
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(copy).unwrap();
    }

    async fn step(&self, is_put: bool) -> Fate {
        let (due, fate) = {
            let mut state = self.state.lock().unwrap();
            for late in &mut state.late {
                late.0 = late.0.saturating_sub(1);
            }
            let due: Vec<Late> = state.late.extract_if(.., |late| late.0 == 0).collect();
            let faults = state.faults;
            let mut hits = |one_of: u64| one_of > 0 && state.chance.below(one_of) == 0;
            let fate = if hits(faults.refuse) {
                Fate::Refused
            } else if is_put && hits(faults.lose) {
                Fate::Lost
            } else if is_put && hits(faults.late) {
                Fate::Late
            } else if is_put && hits(faults.conflict) {
                Fate::Conflict
            } else {
                Fate::Done
            };
            state.failed += u64::from(!matches!(fate, Fate::Done));
            (due, fate)
        };
        for (_, key, payload, options) in due {
            // Too late or not, nobody hears.
            let _ = self.objects.put_opts(&key, payload, options).await;
        }
        fate
    }

    async fn read(&self) -> Result<()> {
        match self.step(false).await {
            Fate::Done => Ok(()),
            _ => Err(lost("503 Slow Down")),
        }
    }
}

fn lost(what: &'static str) -> Error {
    Error::Generic { store: "faulty", source: what.into() }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, key: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let is_hint = key.filename() == Some("version-hint.text");
        assert!(is_hint || options.mode == PutMode::Create, "{key} is put without a condition");
        if self.state.lock().unwrap().faults.replaces {
            options.mode = PutMode::Overwrite;
        }
        match self.step(true).await {
            Fate::Done => self.objects.put_opts(key, payload, options).await,
            Fate::Refused => Err(lost("503 Slow Down")),
            Fate::Lost => {
                let _ = self.objects.put_opts(key, payload, options).await;
                Err(lost("connection reset"))
            }
            Fate::Late => {
                let mut state = self.state.lock().unwrap();
                let after = 1 + state.chance.below(12);
                state.late.push((after, key.clone(), payload, options));
                Err(lost("timed out"))
            }
            Fate::Conflict => {
                let source = "409 ConditionalRequestConflict".into();
                Err(Error::AlreadyExists { path: key.to_string(), source })
            }
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unreachable!("multipart uploads have no condition")
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        self.read().await?;
        self.objects.get_opts(key, options).await
    }

    async fn get_ranges(&self, key: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.read().await?;
        self.objects.get_ranges(key, ranges).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.objects.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(prefix).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.read().await?;
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unreachable!("nothing is copied")
    }
}
