// The parts of training that PyTorch has no fast form of: the gated scan and the loss along the tree's paths.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 64

// c[t] = f·c[t-1] + (1-f)·z, f = 1/(1+exp(-a)); a, z, c: (batch, steps, width).
void scan(const float *restrict a, const float *restrict z, float *restrict c, long batch, long steps, long width) {
  long blocks = width / BLOCK;
#pragma omp parallel for
  for (long i = 0; i < batch * blocks; i++) {
    long b = i / blocks, w = i % blocks * BLOCK;
    float s[BLOCK] = {0};
    for (long t = 0; t < steps; t++) {
      long at = (b * steps + t) * width + w;
#pragma omp simd
      for (int k = 0; k < BLOCK; k++) {
        float f = 1.0f / (1.0f + expf(-a[at + k]));
        s[k] = z[at + k] + f * (s[k] - z[at + k]);
        c[at + k] = s[k];
      }
    }
  }
}

void scan_back(const float *restrict a, const float *restrict z, const float *restrict c, const float *restrict dc,
               float *restrict da, float *restrict dz, long batch, long steps, long width) {
  long blocks = width / BLOCK;
#pragma omp parallel for
  for (long i = 0; i < batch * blocks; i++) {
    long b = i / blocks, w = i % blocks * BLOCK;
    float g[BLOCK] = {0};
    for (long t = steps - 1; t >= 0; t--) {
      long at = (b * steps + t) * width + w;
#pragma omp simd
      for (int k = 0; k < BLOCK; k++) {
        float f = 1.0f / (1.0f + expf(-a[at + k]));
        float before = t ? c[at - width + k] : 0.0f;
        float d = g[k] + dc[at + k];
        dz[at + k] = d * (1.0f - f);
        da[at + k] = d * (before - z[at + k]) * f * (1.0f - f);
        g[k] = d * f;
      }
    }
  }
}

// Loss in nats of each token along its path, with the experts' logits added to the network's, and its gradients.
// h: (n, width); v: (nodes, width); bias: nodes; path: per token of the vocabulary its nodes·2+bit from starts[token] on;
// base: the experts' logits of all decisions, from at[i] on for token i. grad: 0 for the loss alone.
// dv, db: (threads, nodes, ..), zeroed.
void tree_loss(const float *restrict h, const float *restrict v, const float *restrict bias, const int32_t *restrict tokens,
               const int32_t *restrict starts, const uint16_t *restrict path, const uint16_t *restrict base,
               const int64_t *restrict at, const float *restrict logit, float *restrict loss, float *restrict dh,
               float *restrict dv, float *restrict db, long n, long width, long nodes, long threads, int grad) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long part = 0; part < threads; part++) {
    float *restrict v_grad = grad ? dv + part * nodes * width : 0;
    float *restrict b_grad = grad ? db + part * nodes : 0;
    for (long i = n * part / threads; i < n * (part + 1) / threads; i++) {
      const float *restrict x = h + i * width;
      float *restrict dx = dh + i * width;
      double sum = 0;
      if (grad) memset(dx, 0, width * sizeof(float));
      int32_t from = starts[tokens[i]], to = starts[tokens[i] + 1];
      for (int32_t k = from; k < to; k++) {
        long node = path[k] >> 1;
        int bit = path[k] & 1;
        const float *restrict w = v + node * width;
        float dot = 0;
#pragma omp simd reduction(+ : dot)
        for (long j = 0; j < width; j++) dot += w[j] * x[j];
        float l = dot + bias[node] + logit[base[at[i] + (k - from)]];
        float s = bit ? -l : l;
        // softplus
        float e = expf(-fabsf(s));
        sum += (s > 0 ? s : 0) + log1pf(e);
        if (grad) {
          float p = s > 0 ? 1 / (1 + e) : e / (1 + e);
          float g = bit ? -p : p;
          float *restrict wg = v_grad + node * width;
#pragma omp simd
          for (long j = 0; j < width; j++) {
            dx[j] += g * w[j];
            wg[j] += g * x[j];
          }
          b_grad[node] += g;
        }
      }
      loss[i] = (float)sum;
    }
  }
}
