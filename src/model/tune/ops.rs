//! Fused operations of the differentiable model, each with its gradient.
//!
//! candle differentiates chains of small operations by itself, but every one of them walks over the
//! whole tensor several times; these walk once each way.

use crate::model::engine::exp;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Storage, Tensor, bail};
use std::sync::Arc;

/// The numbers of a contiguous single-precision tensor.
fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&storage.as_slice::<f32>()?[from..to]),
        None => bail!("not contiguous"),
    }
}

/// Calls `f` with the numbers of a tensor.
fn with<R>(t: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let t = t.contiguous()?;
    let (storage, layout) = t.storage_and_layout();
    match &*storage {
        Storage::Cpu(s) => f(slice(s, layout)?),
        _ => bail!("not on the CPU"),
    }
}

/// Lanes of [`sum`].
const WAYS: usize = 8;

/// Sum over `f`, in parallel partial sums that vectorise.
#[inline(always)]
fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut ways = [0.0_f32; WAYS];
    for i in 0..n / WAYS {
        for (w, way) in ways.iter_mut().enumerate() {
            *way += f(i * WAYS + w);
        }
    }
    let rest: f32 = (n / WAYS * WAYS..n).map(&f).sum();
    ways.iter().sum::<f32>() + rest
}

/// Root mean square norm over the last dimension, times a weight each.
pub struct RmsNorm {
    /// Added to the mean square.
    pub eps: f32,
}

impl RmsNorm {
    fn inverse(&self, x: &[f32]) -> f32 {
        1.0 / (sum(x.len(), |i| x[i] * x[i]) / x.len() as f32 + self.eps).sqrt()
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (slice(x, xl)?, slice(w, wl)?);
        let mut y = Vec::with_capacity(x.len());
        for x in x.chunks_exact(w.len()) {
            let inverse = self.inverse(x);
            y.extend(x.iter().zip(w).map(|(x, w)| x * inverse * w));
        }
        Ok((CpuStorage::F32(y), xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let n = w.elem_count();
        let mut dw = vec![0.0_f32; n];
        let dx = with(x, |x| {
            with(w, |w| {
                with(g, |g| {
                    let mut dx = Vec::with_capacity(x.len());
                    for (x, g) in x.chunks_exact(n).zip(g.chunks_exact(n)) {
                        let (x, g, w) = (&x[..n], &g[..n], &w[..n]);
                        let inverse = self.inverse(x);
                        let along = sum(n, |i| g[i] * w[i] * x[i]) / n as f32 * inverse * inverse;
                        for i in 0..n {
                            dw[i] += g[i] * x[i] * inverse;
                        }
                        dx.extend((0..n).map(|i| inverse * (g[i] * w[i] - x[i] * along)));
                    }
                    Ok(dx)
                })
            })
        })?;
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(dw, w.shape(), w.device())?),
        ))
    }
}

/// silu(gate) · up.
pub struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gl: &Layout,
        up: &CpuStorage,
        ul: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (slice(gate, gl)?, slice(up, ul)?);
        let y = gate.iter().zip(up).map(|(g, u)| g / (1.0 + exp(-g)) * u).collect();
        Ok((CpuStorage::F32(y), gl.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dgate, dup) = with(gate, |gate| {
            with(up, |up| {
                with(g, |g| {
                    let (mut dgate, mut dup) =
                        (Vec::with_capacity(g.len()), Vec::with_capacity(g.len()));
                    for ((x, u), g) in gate.iter().zip(up).zip(g) {
                        let s = 1.0 / (1.0 + exp(-x));
                        dup.push(g * x * s);
                        dgate.push(g * u * s * (1.0 + x * (1.0 - s)));
                    }
                    Ok((dgate, dup))
                })
            })
        })?;
        Ok((
            Some(Tensor::from_vec(dgate, gate.shape(), gate.device())?),
            Some(Tensor::from_vec(dup, up.shape(), up.device())?),
        ))
    }
}

/// Cosines and sines, `half` of each a position.
pub struct Rotation {
    /// Half of a head's width.
    pub half: usize,
    /// Row-major by position.
    pub cos: Vec<f32>,
    /// Row-major by position.
    pub sin: Vec<f32>,
}

/// Takes the heads of each sequence apart and rotates them: rows of (sequence, position) with all
/// heads side by side become rows of (sequence, head, position); or, `back`, the other way, with the
/// transposed rotation.
#[derive(Clone)]
pub struct Heads {
    /// Positions of a sequence.
    pub positions: usize,
    /// Heads.
    pub heads: usize,
    /// Width of a head.
    pub width: usize,
    /// How they are rotated, if they are.
    pub rotation: Option<Arc<Rotation>>,
    /// The inverse.
    pub back: bool,
}

impl Heads {
    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let (t, a, d) = (self.positions, self.heads, self.width);
        let mut y = vec![0.0; x.len()];
        for (x, y) in x.chunks_exact(t * a * d).zip(y.chunks_exact_mut(t * a * d)) {
            for h in 0..a {
                for p in 0..t {
                    let (apart, together) = ((h * t + p) * d, (p * a + h) * d);
                    let (from, to) = if self.back { (apart, together) } else { (together, apart) };
                    let (x, y) = (&x[from..from + d], &mut y[to..to + d]);
                    let Some(r) = &self.rotation else {
                        y.copy_from_slice(x);
                        continue;
                    };
                    let half = r.half;
                    let (cos, sin) =
                        (&r.cos[p * half..(p + 1) * half], &r.sin[p * half..(p + 1) * half]);
                    let (x1, x2) = x.split_at(half);
                    let (y1, y2) = y.split_at_mut(half);
                    let sign = if self.back { -1.0 } else { 1.0 };
                    for i in 0..half {
                        let s = sin[i] * sign;
                        y1[i] = x1[i] * cos[i] - x2[i] * s;
                        y2[i] = x2[i] * cos[i] + x1[i] * s;
                    }
                }
            }
        }
        y
    }

    fn shape(&self, elements: usize) -> Shape {
        let (t, a, d) = (self.positions, self.heads, self.width);
        let rows = elements / (a * d).max(1);
        if self.back { (rows, a * d).into() } else { (rows / t.max(1) * a, t, d).into() }
    }
}

impl CustomOp1 for Heads {
    fn name(&self) -> &'static str {
        "heads"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, l)?;
        Ok((CpuStorage::F32(self.apply(x)), self.shape(x.len())))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let other = Self { back: !self.back, ..self.clone() };
        let dx = with(g, |g| Ok(other.apply(g)))?;
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}

/// Softmax over the last dimension of scaled scores, where row `r` sees columns up to
/// `r % columns` only.
pub struct CausalSoftmax {
    /// Factor of the scores.
    pub scale: f32,
}

impl CustomOp1 for CausalSoftmax {
    fn name(&self) -> &'static str {
        "causal-softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, l)?;
        let n = l.shape().dims().last().copied().unwrap_or(1);
        let mut y = vec![0.0; x.len()];
        for (r, (x, y)) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)).enumerate() {
            let seen = r % n + 1;
            softmax(&x[..seen], &mut y[..seen], self.scale);
        }
        Ok((CpuStorage::F32(y), l.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let n = x.dims().last().copied().unwrap_or(1);
        let dx = with(y, |y| {
            with(g, |g| {
                let mut dx = vec![0.0; y.len()];
                let rows = y.chunks_exact(n).zip(g.chunks_exact(n)).zip(dx.chunks_exact_mut(n));
                for (r, ((y, g), dx)) in rows.enumerate() {
                    let seen = r % n + 1;
                    let (y, g) = (&y[..seen], &g[..seen]);
                    let along = sum(seen, |i| y[i] * g[i]);
                    for ((dx, y), g) in dx.iter_mut().zip(y).zip(g) {
                        *dx = self.scale * y * (g - along);
                    }
                }
                Ok(dx)
            })
        })?;
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}

/// Softmax of `scale · x`; returns the logarithm of what the exponentials were divided by, as a
/// factor of e^(scale·x).
fn softmax(x: &[f32], y: &mut [f32], scale: f32) -> f32 {
    let top = x.iter().fold(f32::MIN, |a, b| if *b > a { *b } else { a }) * scale;
    for (y, x) in y.iter_mut().zip(x) {
        *y = exp(x * scale - top);
    }
    let total = sum(y.len(), |i| y[i]);
    let inverse = 1.0 / total;
    for y in y.iter_mut() {
        *y *= inverse;
    }
    top + total.ln()
}

/// Natural logarithm of one over the probability that each row of logits gives its target.
pub struct CrossEntropy {
    /// Target of each row. One that cannot be coded costs nothing and teaches nothing.
    pub targets: Vec<u32>,
    /// Tokens that are never coded: they have no share in the distribution.
    pub special: Arc<[u32]>,
}

impl CrossEntropy {
    /// Probabilities of a row, and the logarithm of the sum of exponentials.
    fn row(&self, x: &[f32], scratch: &mut [f32], y: &mut [f32]) -> f32 {
        scratch.copy_from_slice(x);
        for s in &*self.special {
            scratch[*s as usize] = -1e30;
        }
        softmax(scratch, y, 1.0)
    }
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, l)?;
        let n = x.len() / self.targets.len().max(1);
        let (mut scratch, mut y) = (vec![0.0; n], vec![0.0; n]);
        let losses: Vec<f32> = x
            .chunks_exact(n)
            .zip(&self.targets)
            .map(|(x, target)| {
                if self.special.contains(target) {
                    return 0.0;
                }
                self.row(x, &mut scratch, &mut y) - x[*target as usize]
            })
            .collect();
        let rows = losses.len();
        Ok((CpuStorage::F32(losses), rows.into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let n = x.elem_count() / self.targets.len().max(1);
        let dx = with(x, |x| {
            with(g, |g| {
                let mut scratch = vec![0.0; n];
                let mut dx = vec![0.0; x.len()];
                let rows = x.chunks_exact(n).zip(dx.chunks_exact_mut(n)).zip(&self.targets).zip(g);
                for (((x, dx), target), g) in rows {
                    if self.special.contains(target) {
                        continue;
                    }
                    self.row(x, &mut scratch, dx);
                    dx[*target as usize] -= 1.0;
                    for d in dx.iter_mut() {
                        *d *= g;
                    }
                }
                Ok(dx)
            })
        })?;
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}
