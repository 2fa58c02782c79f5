//! The forward pass over a batch of columns.
//!
//! All members of a team run the same function; between its phases they wait for each other. In a
//! phase each takes columns, rows of a matrix, or heads, as fast as it can; no result depends on how
//! many they are and who takes what.

use super::attention::{Cache, MAX_HEAD, Scratch, attend};
use super::softmax::cumulate;
use super::{Llama, RunHyper, State};
use crate::cpu::Isa;
use crate::model::engine::batch::{Activations, Grid, Pile, Quantised, View, linear};
use crate::model::engine::kernel::{Kernel, MAX_COLUMNS, Scalar};
use crate::model::engine::math::{GROUP, add, dequantise, rms_norm, rotate, silu};
use crate::model::engine::team::Barrier;
use crate::model::engine::work::{Span, Token, Want, Work};

/// Memory of a pass.
#[derive(Debug, Default)]
pub struct Memory {
    x: Grid<f32>,
    norm: Grid<f32>,
    cos: Grid<f32>,
    sin: Grid<f32>,
    act: Activations,
    qkv: Grid<f32>,
    att: Grid<f32>,
    mid: Grid<f32>,
    out: Grid<f32>,
    scratch: Vec<Scratch>,
    piles: Vec<Pile>,
    pub logits: Grid<f32>,
    pub cumulative: Grid<u32>,
}

/// Everything that the members share during one pass.
pub struct Pass<'a> {
    engine: &'a Llama,
    tokens: &'a [Token],
    order: &'a [usize],
    spans: &'a [Span],
    outputs: &'a [usize],
    want: Want,
    /// `layers × kv_heads` of each lane.
    caches: Vec<View<'a, Cache>>,
    /// Rows for the outputs.
    logits: View<'a, f32>,
    cumulative: View<'a, u32>,
    x: View<'a, f32>,
    norm: View<'a, f32>,
    cos: View<'a, f32>,
    sin: View<'a, f32>,
    act: Quantised<'a>,
    qkv: View<'a, f32>,
    att: View<'a, f32>,
    mid: View<'a, f32>,
    out: View<'a, f32>,
    scratch: View<'a, Scratch>,
    /// [`Phase::COUNT`] for each layer, and as many behind the last.
    piles: &'a [Pile],
}

/// What members share out among them between two waits.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Norm1,
    Qkv,
    Attention,
    Heads,
    Out,
    Norm2,
    GateUp,
    Gate,
    Down,
    // Behind the last layer.
    Head,
    Softmax,
}

impl Phase {
    const COUNT: usize = Self::Softmax as usize + 1;
}

impl<'a> Pass<'a> {
    /// Takes memory for `members` members.
    pub fn new(
        engine: &'a Llama,
        m: &'a mut Memory,
        work: Work<'a, State>,
        members: usize,
    ) -> Self {
        let h = &engine.hyper;
        let n = work.tokens.len();
        let all = work.first + work.outputs.len();
        // Logits are kept for the caller only if they were asked for.
        let (kept, distributions) = match work.want {
            Want::Logits => (all, 0),
            Want::Decisions => (work.outputs.len(), all),
            Want::Nothing => (0, 0),
        };
        let logits = m.logits.rows(kept, engine.head.rows);
        let cumulative = m.cumulative.rows(distributions, h.vocab + 1);
        m.scratch.resize_with(members.max(m.scratch.len()), Scratch::default);
        m.piles.resize_with((h.layers + 1) * Phase::COUNT, Pile::default);
        m.piles.iter_mut().for_each(Pile::refill);
        let first = &engine.layers[0];
        let widest = h.hidden.max(h.feed_forward).max(h.heads * h.head_dim);
        Self {
            engine,
            tokens: work.tokens,
            order: work.order,
            spans: work.spans,
            outputs: work.outputs,
            want: work.want,
            caches: work.states.iter_mut().map(|s| View::new(&mut s.caches, 1)).collect(),
            logits: if work.want == Want::Logits { logits.skip(work.first) } else { logits },
            cumulative: cumulative.skip(work.first),
            x: m.x.rows(n, h.hidden),
            norm: m.norm.rows(members, widest),
            cos: m.cos.rows(n, h.head_dim / 2),
            sin: m.sin.rows(n, h.head_dim / 2),
            act: m.act.rows(n, widest),
            qkv: m.qkv.rows(n, first.qkv.rows),
            att: m.att.rows(n, h.heads * h.head_dim),
            mid: m.mid.rows(n, first.gate_up.rows),
            out: m.out.rows(n, first.out.rows),
            scratch: View::new(&mut m.scratch, 1),
            piles: &m.piles,
        }
    }

    /// Member `me`'s work. Every member that `barrier` waits for must call it.
    pub fn run(&self, me: usize, barrier: &Barrier) {
        // SAFETY: Engine::with_isa refuses instruction sets that this CPU lacks.
        unsafe {
            match self.engine.isa {
                Isa::Scalar => self.forward::<Scalar>(me, barrier),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => forward_avx2(self, me, barrier),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512Vnni => forward_avx512(self, me, barrier),
                #[cfg(not(target_arch = "x86_64"))]
                _ => self.forward::<Scalar>(me, barrier),
            }
        }
    }

    fn pile(&self, layer: usize, phase: Phase) -> &Pile {
        &self.piles[layer * Phase::COUNT + phase as usize]
    }

    /// One copy is compiled for each instruction set.
    ///
    /// # Safety
    /// The CPU must have the kernel's instruction set; members have different numbers.
    #[inline(always)]
    unsafe fn forward<K: Kernel>(&self, me: usize, barrier: &Barrier) {
        let e = self.engine;
        let h = &e.hyper;
        let n = self.tokens.len();
        let size = barrier.size();
        // SAFETY (all blocks below): the caller vouches for the instruction set. Between two waits
        // a member touches only the columns, rows or heads that it took from a pile, of what anybody
        // writes, and its own row of `norm` and `scratch`.
        let norm = unsafe { self.norm.row(me) };
        for (l, layer) in e.layers.iter().enumerate() {
            for c in self.pile(l, Phase::Norm1).each(n) {
                let norm = &mut norm[..h.hidden];
                unsafe {
                    if l == 0 {
                        embed(e, self.tokens[c].id as usize, self.x.row(c));
                        e.rope.at(self.tokens[c].position, self.cos.row(c), self.sin.row(c));
                    } else {
                        add(self.x.row(c), self.out.read(c));
                    }
                    rms_norm(self.x.row(c), &layer.norm1, h.eps, norm);
                    self.act.set::<K>(c, norm);
                }
            }
            barrier.wait();
            let pile = self.pile(l, Phase::Qkv);
            unsafe { linear::<K>(&layer.qkv, self.act, n, self.qkv, pile, size) };
            barrier.wait();
            for item in self.pile(l, Phase::Attention).each(self.spans.len() * h.kv_heads) {
                let span = self.spans[item / h.kv_heads];
                unsafe { self.attention::<K>(l, span, item % h.kv_heads, me) };
            }
            barrier.wait();
            for c in self.pile(l, Phase::Heads).each(n) {
                unsafe { self.act.set::<K>(c, self.att.read(c)) };
            }
            barrier.wait();
            let pile = self.pile(l, Phase::Out);
            unsafe { linear::<K>(&layer.out, self.act, n, self.out, pile, size) };
            barrier.wait();
            for c in self.pile(l, Phase::Norm2).each(n) {
                let norm = &mut norm[..h.hidden];
                unsafe {
                    add(self.x.row(c), self.out.read(c));
                    rms_norm(self.x.row(c), &layer.norm2, h.eps, norm);
                    self.act.set::<K>(c, norm);
                }
            }
            barrier.wait();
            let pile = self.pile(l, Phase::GateUp);
            unsafe { linear::<K>(&layer.gate_up, self.act, n, self.mid, pile, size) };
            barrier.wait();
            for c in self.pile(l, Phase::Gate).each(n) {
                let product = &mut norm[..h.feed_forward];
                unsafe {
                    let (gate, up) = self.mid.read(c).split_at(h.feed_forward);
                    for ((p, g), u) in product.iter_mut().zip(gate).zip(up) {
                        *p = silu(*g) * u;
                    }
                    self.act.set::<K>(c, product);
                }
            }
            barrier.wait();
            let pile = self.pile(l, Phase::Down);
            unsafe { linear::<K>(&layer.down, self.act, n, self.out, pile, size) };
            barrier.wait();
        }
        if self.want == Want::Nothing || self.outputs.is_empty() {
            return;
        }
        let (behind, n) = (h.layers, self.outputs.len());
        for i in self.pile(behind, Phase::Norm1).each(n) {
            let norm = &mut norm[..h.hidden];
            let c = self.outputs[i];
            unsafe {
                add(self.x.row(c), self.out.read(c));
                rms_norm(self.x.row(c), &e.norm, h.eps, norm);
                self.act.set::<K>(i, norm);
            }
        }
        barrier.wait();
        let pile = self.pile(behind, Phase::Head);
        unsafe { linear::<K>(&e.head, self.act, n, self.logits, pile, size) };
        if self.want == Want::Decisions {
            barrier.wait();
            for i in self.pile(behind, Phase::Softmax).each(n) {
                unsafe { cumulate(&self.logits.read(i)[..h.vocab], self.cumulative.row(i)) };
            }
        }
    }

    /// One key-value head of the columns of one lane: rotates, writes, and attends in order.
    #[inline(always)]
    unsafe fn attention<K: Kernel>(&self, layer: usize, span: Span, head: usize, me: usize) {
        let h = &self.engine.hyper;
        let d = h.head_dim;
        let group = h.heads / h.kv_heads;
        let (queries, keys) = (h.heads * d, h.kv_heads * d);
        for c in &self.order[span.from..span.to] {
            let Token { lane, position, .. } = self.tokens[*c];
            // SAFETY: this lane and head are this member's until the next wait, and so are their
            // parts of the rows.
            unsafe {
                let cache = &mut self.caches[lane].row(layer * h.kv_heads + head)[0];
                let scratch = &mut self.scratch.row(me)[0];
                let (cos, sin) = (self.cos.read(*c), self.sin.read(*c));
                let mine = head * group * d..(head + 1) * group * d;
                let q = self.qkv.part(*c, mine.clone());
                let k = self.qkv.part(*c, queries + head * d..queries + (head + 1) * d);
                let v =
                    self.qkv.part(*c, queries + keys + head * d..queries + keys + (head + 1) * d);
                rotate(k, cos, sin);
                cache.write(position, h.reach, k, v);
                let mut from_sinks = std::mem::take(&mut scratch.from_sinks);
                from_sinks.clear();
                let near = h.reach.near_sinks(position);
                if h.reach.sinks > 0 && near != position {
                    from_sinks.extend_from_slice(q);
                    let (mut cos, mut sin) = ([0.0; MAX_HEAD / 2], [0.0; MAX_HEAD / 2]);
                    let (cos, sin) = (&mut cos[..d / 2], &mut sin[..d / 2]);
                    self.engine.rope.at(near, cos, sin);
                    from_sinks.chunks_exact_mut(d).for_each(|q| rotate(q, cos, sin));
                }
                q.chunks_exact_mut(d).for_each(|q| rotate(q, cos, sin));
                let out = self.att.part(*c, mine);
                let some = MAX_COLUMNS * d;
                for (i, (q, out)) in q.chunks(some).zip(out.chunks_mut(some)).enumerate() {
                    let from = from_sinks.chunks(some).nth(i).unwrap_or(&[]);
                    attend::<K>(cache, position, h.reach, d, q, from, scratch, out);
                }
                scratch.from_sinks = from_sinks;
            }
        }
    }
}

/// Row `token` of the embedding.
#[inline(always)]
fn embed(e: &Llama, token: usize, x: &mut [f32]) {
    let RunHyper { hidden, .. } = e.hyper;
    let groups = hidden.div_ceil(GROUP);
    let row = &e.embedding[token * hidden..(token + 1) * hidden];
    dequantise(row, &e.embedding_scales[token * groups..(token + 1) * groups], x);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn forward_avx2(pass: &Pass, me: usize, barrier: &Barrier) {
    // SAFETY: this function's own requirement.
    unsafe { pass.forward::<crate::model::engine::avx2::Avx2>(me, barrier) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn forward_avx512(pass: &Pass, me: usize, barrier: &Barrier) {
    // SAFETY: this function's own requirement.
    unsafe { pass.forward::<crate::model::engine::avx512::Avx512Vnni>(me, barrier) }
}
