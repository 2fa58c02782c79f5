//! Gated linear recurrences: see [`network::Gated`](crate::model::network::Gated) for what is computed.

use super::batch::{Activations, Grid, Pile, Quantised, View, linear};
use super::kernel::{Kernel, Packed, Scalar};
use super::math::{GROUP, add, dequantise, exp, rms_norm, silu, truncate};
use super::team::Barrier;
use super::work::{Job, Span, Token, Want, Work};
use super::{Engine, EngineError, Isa, stack};
use crate::model::network::{self, Matrix, Sizes};

/// One layer, ready to run.
#[derive(Debug)]
struct Layer {
    norm: Vec<f32>,
    shift: Vec<f32>,
    input: Packed,
    keep: Vec<f32>,
    output: Packed,
}

/// One, packed for the kernels.
#[derive(Debug)]
pub struct Gated {
    isa: Isa,
    sizes: Sizes,
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    nodes: Matrix,
    bias: Vec<f32>,
}

/// What a lane remembers, layer by layer.
#[derive(Debug, Default)]
pub struct State(Vec<Remembered>);

/// What a layer remembers of a lane.
#[derive(Debug, Default, Clone)]
struct Remembered {
    /// Its normed input of the token before.
    before: Vec<f32>,
    memory: Vec<f32>,
}

/// Working memory of passes, and results.
#[derive(Debug, Default)]
pub struct Memory {
    x: Grid<f32>,
    norm: Grid<f32>,
    act: Activations,
    input: Grid<f32>,
    output: Grid<f32>,
    piles: Vec<Pile>,
    /// Of each output: the last norm, quantised, and its scales.
    values: Grid<i8>,
    scales: Grid<f32>,
}

impl Gated {
    /// Packs a network for this CPU's best instruction set, without checking it.
    pub fn new(network: &network::Gated) -> Self {
        Self::build(network, Isa::best())
    }

    /// Packs a network for an instruction set.
    pub fn with_isa(network: &network::Gated, isa: Isa) -> Result<Self, EngineError> {
        if isa.available() {
            Ok(Self::build(network, isa))
        } else {
            Err(EngineError::NoIsa(isa.name()))
        }
    }

    fn build(network: &network::Gated, isa: Isa) -> Self {
        let layer = |l: &network::GatedLayer| Layer {
            norm: l.norm.clone(),
            shift: l.shift.clone(),
            input: stack(&[&l.input]),
            keep: l.keep.clone(),
            output: stack(&[&l.output]),
        };
        Self {
            isa,
            sizes: network.sizes,
            embedding: network.embedding.clone(),
            layers: network.layers.iter().map(layer).collect(),
            norm: network.norm.clone(),
            nodes: network.nodes.clone(),
            bias: network.bias.clone(),
        }
    }

    /// What is added to the experts' logit at a node, of natural logarithms.
    #[inline(always)]
    fn correction(&self, memory: &Memory, output: usize, node: usize) -> f32 {
        let hidden = self.nodes.columns;
        let groups = hidden.div_ceil(GROUP);
        let weights = &self.nodes.values[node * hidden..(node + 1) * hidden];
        let scales = &self.nodes.scales[node * groups..(node + 1) * groups];
        let (values, own) = (memory.values.row(output), memory.scales.row(output));
        let mut sum = 0.0;
        for (g, (w, x)) in weights.chunks(GROUP).zip(values.chunks(GROUP)).enumerate() {
            let products = w.iter().zip(x).map(|(w, x)| i32::from(*w) * i32::from(*x));
            sum += (products.sum::<i32>() as f32 * scales[g]) * own[g];
        }
        sum + self.bias[node]
    }
}

impl Engine for Gated {
    type State = State;
    type Memory = Memory;

    fn isa(&self) -> Isa {
        self.isa
    }

    fn bytes(&self) -> usize {
        let packed = |p: &Packed| p.weights.len() + 4 * p.scales.len();
        let matrix = |m: &Matrix| m.values.len() + 4 * m.scales.len();
        let layers = self.layers.iter().map(|l| packed(&l.input) + packed(&l.output));
        matrix(&self.embedding) + matrix(&self.nodes) + layers.sum::<usize>()
    }

    fn tokens(&self) -> usize {
        self.sizes.tokens as usize + 1
    }

    fn clear(&self, state: &mut State) {
        state.0.resize(self.layers.len(), Remembered::default());
        for l in &mut state.0 {
            l.before.clear();
            l.before.resize(self.sizes.hidden as usize, 0.0);
            l.memory.clear();
            l.memory.resize(self.sizes.inner as usize, 0.0);
        }
    }

    fn state_bytes(state: &State) -> usize {
        let layer = |l: &Remembered| 4 * (l.before.capacity() + l.memory.capacity());
        state.0.iter().map(layer).sum()
    }

    fn pass(
        &self,
        memory: &mut Memory,
        work: Work<'_, State>,
        members: usize,
        run: &mut dyn FnMut(&Job<'_>),
    ) {
        let pass = Pass::new(self, memory, work, members);
        run(&|me, barrier| pass.run(me, barrier));
    }

    fn probability(&self, memory: &Memory, output: usize, node: u16, _: [usize; 3]) -> u32 {
        let logit = self.correction(memory, output, usize::from(node));
        truncate(65536.0 / (1.0 + exp(-logit)), 1.0, 65535.0) as u32
    }

    fn likeliest(&self, _: &Memory, _: usize) -> Option<usize> {
        None
    }

    fn logits(&self, memory: &Memory, output: usize, all: &mut Vec<f32>) {
        all.extend((0..self.nodes.rows).map(|node| self.correction(memory, output, node)));
    }
}

/// Everything that the members share during one pass.
struct Pass<'a> {
    engine: &'a Gated,
    tokens: &'a [Token],
    order: &'a [usize],
    spans: &'a [Span],
    outputs: &'a [usize],
    want: Want,
    states: View<'a, State>,
    x: View<'a, f32>,
    norm: View<'a, f32>,
    act: Quantised<'a>,
    input: View<'a, f32>,
    output: View<'a, f32>,
    /// Results.
    values: View<'a, i8>,
    scales: View<'a, f32>,
    /// [`Phase::COUNT`] for each layer, and as many behind the last.
    piles: &'a [Pile],
}

/// What members share out among them between two waits.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Norm,
    Input,
    Gate,
    Output,
}

impl Phase {
    const COUNT: usize = Self::Output as usize + 1;
}

impl<'a> Pass<'a> {
    /// Takes memory for `members` members.
    fn new(engine: &'a Gated, m: &'a mut Memory, work: Work<'a, State>, members: usize) -> Self {
        let (hidden, inner) = (engine.sizes.hidden as usize, engine.sizes.inner as usize);
        let n = work.tokens.len();
        m.piles.resize_with((engine.layers.len() + 1) * Phase::COUNT, Pile::default);
        m.piles.iter_mut().for_each(Pile::refill);
        let first = &engine.layers[0];
        let results = work.first + work.outputs.len();
        Self {
            engine,
            tokens: work.tokens,
            order: work.order,
            spans: work.spans,
            outputs: work.outputs,
            want: work.want,
            states: View::new(work.states, 1),
            x: m.x.rows(n, hidden),
            norm: m.norm.rows(members, hidden.max(inner)),
            act: m.act.rows(n, hidden.max(inner)),
            input: m.input.rows(n, first.input.rows),
            output: m.output.rows(n, first.output.rows),
            values: m.values.rows(results, hidden).skip(work.first),
            scales: m.scales.rows(results, hidden.div_ceil(GROUP)).skip(work.first),
            piles: &m.piles,
        }
    }

    /// Member `me`'s work. Every member that `barrier` waits for must call it.
    fn run(&self, me: usize, barrier: &Barrier) {
        // SAFETY: Gated::with_isa refuses instruction sets that this CPU lacks.
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
        let n = self.tokens.len();
        let size = barrier.size();
        // SAFETY (all blocks below): the caller vouches for the instruction set. Between two waits
        // a member touches only the lanes, rows or outputs that it took from a pile, of what anybody
        // writes, and its own row of `norm`.
        let norm = unsafe { self.norm.row(me) };
        for (l, layer) in e.layers.iter().enumerate() {
            for span in self.pile(l, Phase::Norm).each(self.spans.len()) {
                unsafe { self.enter::<K>(l, layer, self.spans[span], norm) };
            }
            barrier.wait();
            let pile = self.pile(l, Phase::Input);
            unsafe { linear::<K>(&layer.input, self.act, n, self.input, pile, size) };
            barrier.wait();
            for span in self.pile(l, Phase::Gate).each(self.spans.len()) {
                unsafe { self.remember::<K>(l, layer, self.spans[span], norm) };
            }
            barrier.wait();
            let pile = self.pile(l, Phase::Output);
            unsafe { linear::<K>(&layer.output, self.act, n, self.output, pile, size) };
            barrier.wait();
        }
        if self.want == Want::Nothing {
            return;
        }
        let norm = &mut norm[..e.sizes.hidden as usize];
        for i in self.pile(e.layers.len(), Phase::Norm).each(self.outputs.len()) {
            let c = self.outputs[i];
            unsafe {
                add(self.x.row(c), self.output.read(c));
                rms_norm(self.x.row(c), &e.norm, e.sizes.eps, norm);
                self.act.set::<K>(c, norm);
                let (values, scales) = self.act.read(c);
                let hidden = norm.len();
                self.values.row(i).copy_from_slice(&values[..hidden]);
                let scales = &scales[..hidden.div_ceil(GROUP)];
                self.scales.row(i).copy_from_slice(scales);
            }
        }
    }

    /// The layer's quantised input, column by column of a lane.
    #[inline(always)]
    unsafe fn enter<K: Kernel>(&self, l: usize, layer: &Layer, span: Span, norm: &mut [f32]) {
        let e = self.engine;
        let norm = &mut norm[..e.sizes.hidden as usize];
        for c in &self.order[span.from..span.to] {
            let Token { lane, id, .. } = self.tokens[*c];
            // SAFETY: this lane and its columns are this member's until the next wait.
            unsafe {
                let x = self.x.row(*c);
                if l == 0 {
                    embed(e, id as usize, x);
                } else {
                    add(x, self.output.read(*c));
                }
                rms_norm(x, &layer.norm, e.sizes.eps, norm);
                let before = &mut self.states.row(lane)[0].0[l].before;
                for ((x, before), shift) in norm.iter_mut().zip(before).zip(&layer.shift) {
                    let now = *x;
                    *x = now + shift * (*before - now);
                    *before = now;
                }
                self.act.set::<K>(*c, norm);
            }
        }
    }

    /// Memory and gate, column by column of a lane: the quantised input of the output projection.
    #[inline(always)]
    unsafe fn remember<K: Kernel>(&self, l: usize, layer: &Layer, span: Span, gated: &mut [f32]) {
        let inner = self.engine.sizes.inner as usize;
        let gated = &mut gated[..inner];
        for c in &self.order[span.from..span.to] {
            // SAFETY: as above.
            unsafe {
                let memory = &mut self.states.row(self.tokens[*c].lane)[0].0[l].memory[..inner];
                let input = &self.input.read(*c)[..3 * inner];
                let (forget, rest) = input.split_at(inner);
                let (value, gate) = rest.split_at(inner);
                let keep = &layer.keep[..inner];
                for i in 0..inner {
                    let f = 1.0 / (1.0 + exp(-(forget[i] + keep[i])));
                    memory[i] = value[i] + f * (memory[i] - value[i]);
                    gated[i] = memory[i] * silu(gate[i]);
                }
                self.act.set::<K>(*c, gated);
            }
        }
    }
}

/// Row `token` of the embedding.
#[inline(always)]
fn embed(e: &Gated, token: usize, x: &mut [f32]) {
    let m = &e.embedding;
    let groups = m.columns.div_ceil(GROUP);
    let values = &m.values[token * m.columns..(token + 1) * m.columns];
    dequantise(values, &m.scales[token * groups..(token + 1) * groups], x);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn forward_avx2(pass: &Pass, me: usize, barrier: &Barrier) {
    // SAFETY: this function's own requirement.
    unsafe { pass.forward::<super::avx2::Avx2>(me, barrier) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn forward_avx512(pass: &Pass, me: usize, barrier: &Barrier) {
    // SAFETY: this function's own requirement.
    unsafe { pass.forward::<super::avx512::Avx512Vnni>(me, barrier) }
}
