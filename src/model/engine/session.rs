//! Lanes, and the forward pass over a batch of them.

use super::attention::{AHEAD, Cache, Scratch, attend};
use super::kernel::{Column, GROUP_BYTES, Isa, Kernel, MAX_COLUMNS, Packed, ROWS, Scalar};
use super::math::{GROUP, quantise, rms_norm, rotate, silu};
use super::softmax::cumulate;
use super::{Engine, EngineError, floats_are_strict};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

/// Bytes of weights that stay in the first-level cache while all columns pass over them.
const TILE_BYTES: usize = 16 << 10;

/// Quantised activations of a batch: `n` columns of `groups × 64`.
#[derive(Debug, Default)]
struct Activations {
    groups: usize,
    values: Vec<i8>,
    scales: Vec<f32>,
    offsets: Vec<i32>,
}

impl Activations {
    #[inline(always)]
    fn reset(&mut self, columns: usize, inputs: usize) {
        self.groups = inputs.div_ceil(GROUP);
        self.values.resize(columns * self.groups * GROUP, 0);
        self.scales.resize(columns * self.groups, 0.0);
        self.offsets.resize(columns * self.groups, 0);
    }

    /// Quantises column `c`, padding its last group with zeros.
    #[inline(always)]
    fn set(&mut self, c: usize, x: &[f32]) {
        for (g, x) in x.chunks(GROUP).enumerate() {
            let at = c * self.groups + g;
            let q = &mut self.values[at * GROUP..(at + 1) * GROUP];
            q[x.len()..].fill(0);
            self.scales[at] = quantise(x, &mut q[..x.len()]);
            self.offsets[at] = -128 * q.iter().map(|v| i32::from(*v)).sum::<i32>();
        }
    }

    #[inline(always)]
    fn column(&self, c: usize) -> Column<'_> {
        let (a, b) = (c * self.groups, (c + 1) * self.groups);
        Column {
            values: &self.values[a * GROUP..b * GROUP],
            scales: &self.scales[a..b],
            offsets: &self.offsets[a..b],
        }
    }
}

/// `out[c] = W · column c` for `n` columns, tile by tile.
#[inline(always)]
unsafe fn linear<K: Kernel>(w: &Packed, x: &Activations, n: usize, out: &mut Vec<f32>) {
    debug_assert_eq!(w.groups, x.groups);
    out.resize(n * w.rows, 0.0);
    let blocks = w.rows / ROWS;
    let tile = (TILE_BYTES / (w.groups * GROUP_BYTES)).max(1);
    let mut from = 0;
    while from < blocks {
        let to = (from + tile).min(blocks);
        let mut first = 0;
        while first < n {
            // Even shares: 12 columns run as 6 + 6 rather than 8 + 4.
            let left = n - first;
            let m = left.div_ceil(left.div_ceil(MAX_COLUMNS));
            let columns: [Column; MAX_COLUMNS] =
                std::array::from_fn(|i| x.column((first + i).min(n - 1)));
            // SAFETY: the caller vouches for the instruction set.
            unsafe {
                K::linear(w, from..to, &columns[..m], &mut out[first * w.rows..], w.rows);
            }
            first += m;
        }
        from = to;
    }
}

/// One token to be fed to a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input {
    /// Lane of the session.
    pub lane: usize,
    /// Token of the model's vocabulary.
    pub token: u32,
}

/// What one lane remembers.
#[derive(Debug, Default)]
struct Lane {
    position: usize,
    /// `layers × kv_heads` caches.
    caches: Vec<Cache>,
}

/// The lanes that one thread computes, and its working memory.
#[derive(Debug, Default)]
struct Part {
    lanes: Vec<Lane>,
    /// Columns of the call at hand: (lane of this part, token).
    inputs: Vec<(usize, u32)>,
    positions: Vec<usize>,
    x: Vec<f32>,
    norm: Vec<f32>,
    act: Activations,
    qkv: Vec<f32>,
    att: Vec<f32>,
    mid: Vec<f32>,
    out: Vec<f32>,
    logits: Vec<f32>,
    cumulative: Vec<u32>,
    scratch: Scratch,
    want: Want,
}

/// What a call computes behind the last layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Want {
    #[default]
    Nothing,
    Logits,
    Distributions,
}

impl Part {
    /// The forward pass. One copy is compiled for each instruction set.
    #[inline(always)]
    unsafe fn forward<K: Kernel>(&mut self, e: &Engine) {
        let h = &e.hyper;
        let n = self.inputs.len();
        if n == 0 {
            return;
        }
        let (d, dim) = (h.head_dim, h.hidden);
        let (q_len, kv_len) = (h.heads * d, h.kv_heads * d);
        self.x.clear();
        self.positions.clear();
        for (lane, token) in &self.inputs {
            let token = *token as usize;
            let groups = dim.div_ceil(GROUP);
            let row = &e.embedding[token * dim..(token + 1) * dim];
            for (g, row) in row.chunks(GROUP).enumerate() {
                let scale = e.embedding_scales[token * groups + g];
                self.x.extend(row.iter().map(|v| f32::from(*v) * scale));
            }
            let lane = &mut self.lanes[*lane];
            self.positions.push(lane.position);
            lane.position += 1;
        }
        self.norm.resize(dim.max(h.feed_forward), 0.0);
        let mut cos = [0.0_f32; 128];
        let mut sin = [0.0_f32; 128];
        let (cos, sin) = (&mut cos[..d / 2], &mut sin[..d / 2]);
        for (l, layer) in e.layers.iter().enumerate() {
            self.act.reset(n, dim);
            for c in 0..n {
                rms_norm(&self.x[c * dim..][..dim], &layer.norm1, h.eps, &mut self.norm[..dim]);
                self.act.set(c, &self.norm[..dim]);
            }
            // SAFETY: the caller vouches for the instruction set, here and below.
            unsafe { linear::<K>(&layer.qkv, &self.act, n, &mut self.qkv) };
            let stride = layer.qkv.rows;
            for c in 0..n {
                let position = self.positions[c];
                e.rope.at(position, cos, sin);
                let row = &mut self.qkv[c * stride..][..q_len + 2 * kv_len];
                for head in row[..q_len + kv_len].chunks_exact_mut(d) {
                    rotate(head, cos, sin);
                }
                let (_, kv) = row.split_at(q_len);
                let (keys, values) = kv.split_at(kv_len);
                let lane = &mut self.lanes[self.inputs[c].0];
                for (head, (k, v)) in keys.chunks_exact(d).zip(values.chunks_exact(d)).enumerate() {
                    lane.caches[l * h.kv_heads + head].write(position, h.window, k, v);
                }
            }
            self.att.resize(q_len, 0.0);
            self.act.reset(n, q_len);
            for c in 0..n {
                let lane = &self.lanes[self.inputs[c].0];
                for head in 0..h.heads {
                    let cache = &lane.caches[l * h.kv_heads + head / (h.heads / h.kv_heads)];
                    let query = &self.qkv[c * stride + head * d..][..d];
                    let out = &mut self.att[head * d..][..d];
                    let (position, window) = (self.positions[c], h.window);
                    unsafe {
                        attend::<K>(cache, position, window, query, &mut self.scratch, out);
                    }
                }
                self.act.set(c, &self.att);
            }
            unsafe { linear::<K>(&layer.out, &self.act, n, &mut self.out) };
            let stride = layer.out.rows;
            self.act.reset(n, dim);
            for c in 0..n {
                let x = &mut self.x[c * dim..][..dim];
                for (x, o) in x.iter_mut().zip(&self.out[c * stride..]) {
                    *x += o;
                }
                rms_norm(x, &layer.norm2, h.eps, &mut self.norm[..dim]);
                self.act.set(c, &self.norm[..dim]);
            }
            unsafe { linear::<K>(&layer.gate_up, &self.act, n, &mut self.mid) };
            let stride = layer.gate_up.rows;
            self.act.reset(n, h.feed_forward);
            for c in 0..n {
                let (gate, up) =
                    self.mid[c * stride..][..2 * h.feed_forward].split_at(h.feed_forward);
                let product = &mut self.norm[..h.feed_forward];
                for ((p, g), u) in product.iter_mut().zip(gate).zip(up) {
                    *p = silu(*g) * u;
                }
                self.act.set(c, &self.norm[..h.feed_forward]);
            }
            unsafe { linear::<K>(&layer.down, &self.act, n, &mut self.out) };
            let stride = layer.down.rows;
            for c in 0..n {
                let x = &mut self.x[c * dim..][..dim];
                for (x, o) in x.iter_mut().zip(&self.out[c * stride..]) {
                    *x += o;
                }
            }
        }
        if self.want == Want::Nothing {
            return;
        }
        self.act.reset(n, dim);
        for c in 0..n {
            rms_norm(&self.x[c * dim..][..dim], &e.norm, h.eps, &mut self.norm[..dim]);
            self.act.set(c, &self.norm[..dim]);
        }
        unsafe { linear::<K>(&e.head, &self.act, n, &mut self.logits) };
        if self.want == Want::Distributions {
            self.cumulative.resize(n * (h.vocab + 1), 0);
            for (c, out) in self.cumulative.chunks_exact_mut(h.vocab + 1).enumerate().take(n) {
                cumulate(&self.logits[c * e.head.rows..][..h.vocab], out);
            }
        }
    }

    fn run(&mut self, e: &Engine) {
        assert!(floats_are_strict(), "flush-to-zero or denormals-are-zero is on in this thread");
        // SAFETY: Engine::with_isa refuses instruction sets that this CPU lacks.
        unsafe {
            match e.isa {
                Isa::Scalar => self.forward::<Scalar>(e),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => forward_avx2(self, e),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512Vnni => forward_avx512(self, e),
                #[cfg(not(target_arch = "x86_64"))]
                _ => self.forward::<Scalar>(e),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn forward_avx2(part: &mut Part, e: &Engine) {
    // SAFETY: this function's own requirement.
    unsafe { part.forward::<super::x86::Avx2>(e) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn forward_avx512(part: &mut Part, e: &Engine) {
    // SAFETY: this function's own requirement.
    unsafe { part.forward::<super::x86::Avx512Vnni>(e) }
}

/// A thread that computes a part and hands it back.
#[derive(Debug)]
struct Worker {
    send: Option<Sender<Box<Part>>>,
    receive: Receiver<Box<Part>>,
    thread: Option<JoinHandle<()>>,
}

/// Waits for a message: first spinning, for steps take microseconds, then asleep.
fn wait<T>(r: &Receiver<T>) -> Option<T> {
    for _ in 0..2000 {
        match r.try_recv() {
            Ok(v) => return Some(v),
            Err(TryRecvError::Empty) => std::hint::spin_loop(),
            Err(TryRecvError::Disconnected) => return None,
        }
    }
    r.recv().ok()
}

impl Worker {
    fn new(engine: Arc<Engine>) -> std::io::Result<Self> {
        let (send, inbox) = channel::<Box<Part>>();
        let (outbox, receive) = channel();
        let thread = std::thread::Builder::new().name("lmfs-engine".into()).spawn(move || {
            while let Some(mut part) = wait(&inbox) {
                part.run(&engine);
                if outbox.send(part).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { send: Some(send), receive, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.send = None;
        if let Some(t) = self.thread.take() {
            drop(t.join());
        }
    }
}

/// A batch of lanes of one model, each a text of its own.
///
/// A lane's results depend on that lane's tokens alone: not on the other lanes, the number of
/// threads, or whether tokens came one by one or many in one call.
#[derive(Debug)]
pub struct Session {
    engine: Arc<Engine>,
    /// Boxed: they move between threads.
    #[allow(clippy::vec_box)]
    parts: Vec<Box<Part>>,
    /// One fewer than parts: the first is computed by the caller.
    workers: Vec<Worker>,
    /// Where column `c` of the last call is: (part, column of it).
    placed: Vec<(usize, usize)>,
}

impl Session {
    /// Most tokens of one lane in one call.
    pub const AHEAD: usize = AHEAD;

    /// A session of `lanes` empty lanes, computed by at most `threads` threads, the caller's included.
    pub fn new(engine: Arc<Engine>, lanes: usize, threads: usize) -> Result<Self, EngineError> {
        let count = threads.clamp(1, lanes.max(1));
        let caches = engine.hyper.layers * engine.hyper.kv_heads;
        let mut parts: Vec<Box<Part>> = (0..count).map(|_| Box::default()).collect();
        for lane in 0..lanes {
            parts[lane % count]
                .lanes
                .push(Lane { position: 0, caches: vec![Cache::default(); caches] });
        }
        let workers = (1..count)
            .map(|_| Worker::new(Arc::clone(&engine)))
            .collect::<Result<_, _>>()
            .map_err(EngineError::Thread)?;
        Ok(Self { engine, parts, workers, placed: Vec::new() })
    }

    /// The model.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Forgets what a lane has read.
    pub fn clear(&mut self, lane: usize) {
        let count = self.parts.len();
        let lane = &mut self.parts[lane % count].lanes[lane / count];
        lane.position = 0;
        lane.caches.iter_mut().for_each(Cache::clear);
    }

    /// Feeds tokens; a lane may occur up to [`Session::AHEAD`] times, in its order.
    /// Afterwards [`Session::cumulative`] has the distribution of the token behind each input.
    pub fn step(&mut self, inputs: &[Input]) {
        self.run(inputs, Want::Distributions);
    }

    /// Feeds tokens and computes [`Session::logits`] only.
    pub fn step_logits(&mut self, inputs: &[Input]) {
        self.run(inputs, Want::Logits);
    }

    /// Feeds tokens without computing what follows them.
    pub fn feed(&mut self, inputs: &[Input]) {
        self.run(inputs, Want::Nothing);
    }

    fn run(&mut self, inputs: &[Input], want: Want) {
        let count = self.parts.len();
        for p in &mut self.parts {
            p.inputs.clear();
            p.want = want;
        }
        self.placed.clear();
        for input in inputs {
            assert!(
                (input.token as usize) < self.engine.hyper.tokens,
                "token out of the vocabulary"
            );
            let part = &mut self.parts[input.lane % count];
            self.placed.push((input.lane % count, part.inputs.len()));
            part.inputs.push((input.lane / count, input.token));
        }
        let busy: Vec<usize> = (1..count).filter(|i| !self.parts[*i].inputs.is_empty()).collect();
        for i in &busy {
            let part = std::mem::take(&mut self.parts[*i]);
            if let Some(send) = &self.workers[*i - 1].send {
                send.send(part).expect("engine worker lives as long as its session");
            }
        }
        self.parts[0].run(&self.engine);
        for i in busy {
            self.parts[i] =
                wait(&self.workers[i - 1].receive).expect("engine worker does not panic");
        }
    }

    /// Cumulative probabilities behind input `column` of the last [`Session::step`], in leaf order:
    /// `vocabulary + 1` integers from 0 to 2^31, strictly increasing.
    pub fn cumulative(&self, column: usize) -> &[u32] {
        let (part, c) = self.placed[column];
        let n = self.engine.hyper.vocab + 1;
        &self.parts[part].cumulative[c * n..(c + 1) * n]
    }

    /// Logits behind input `column` of the last call, in leaf order.
    pub fn logits(&self, column: usize) -> &[f32] {
        let (part, c) = self.placed[column];
        let e = &self.engine;
        &self.parts[part].logits[c * e.head.rows..][..e.hyper.vocab]
    }

    /// Bytes of the caches.
    pub fn cache_bytes(&self) -> usize {
        let lanes = self.parts.iter().flat_map(|p| &p.lanes);
        lanes.flat_map(|l| &l.caches).map(Cache::bytes).sum()
    }
}
