// Exact attention on CPUs with AVX-512: softmax(q k^T / sqrt(D)) v, without ever holding all scores.
//
// A block of queries meets one block of keys after the other; its scores stay in the first-level cache, between the two
// matrix products.  A running maximum and sum make the softmax exact (Milakov & Gimelshein 2018; Dao et al. 2022,
// algorithm 1).  Scores, softmax and sums are float32.  Heads are read where the linear layers leave them and written
// where the next one wants them.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>
#include <immintrin.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace {

using at::BFloat16;
constexpr int64_t kQueries = 32, kKeys = 128;  // of a block: 16 KiB of scores
constexpr int64_t kLanes = 16;                 // floats in a register

// Products in bfloat16 take the right operand in pairs of rows: [K N] -> [K/2 N 2].
template <typename T>
constexpr int64_t kPair = std::is_same_v<T, BFloat16> ? 2 : 1;

template <typename T>
int64_t place(int64_t k, int64_t n, int64_t columns) {
  return (k / kPair<T> * columns + n) * kPair<T> + k % kPair<T>;
}

template <typename T>
void multiply(int64_t m, int64_t n, int64_t k, int64_t ld_a, int64_t ld_b, int64_t ld_c, bool add, const T* a,
              const T* b, float* c) {
  at::native::cpublas::brgemm(m, n, k, ld_a, ld_b, ld_c, add, a, b, c, kPair<T> == 2);
}

// 2^x for x <= 0: 2^round(x) times a polynomial in the rest, within 3e-7 of the value.  2^-inf is 0: scalef says so
// whatever the polynomial makes of -inf - -inf.
__m512 power_of_two(__m512 x) {
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 rest = _mm512_sub_ps(x, whole);
  __m512 y = _mm512_set1_ps(1.5403530e-4f);  // ln(2)^6 / 6!, then ln(2)^5 / 5!, ...
  for (float c : {1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.0f})
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(c));
  return _mm512_scalef_ps(y, whole);
}

void store(float* to, __m512 x) { _mm512_storeu_ps(to, x); }

void store(BFloat16* to, __m512 x) {
#ifdef __AVX512BF16__
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(x));
#else
  alignas(64) float values[kLanes];
  _mm512_store_ps(values, x);
  std::copy(values, values + kLanes, to);
#endif
}

// One row of scores, in units of log 2, against the running maximum: writes the weights, returns the new maximum.
// `sum` becomes the sum of all weights so far, `keep` what earlier weights shrink by.
template <typename T>
float soften(const float* scores, T* weights, float scale, float largest, float& sum, float& keep) {
  __m512 top = _mm512_loadu_ps(scores);
  for (int64_t i = kLanes; i < kKeys; i += kLanes) top = _mm512_max_ps(top, _mm512_loadu_ps(scores + i));
  const float now = std::max(largest, _mm512_reduce_max_ps(top) * scale);
  const __m512 factor = _mm512_set1_ps(scale), shift = _mm512_set1_ps(now);
  __m512 total = _mm512_setzero_ps();
  for (int64_t i = 0; i < kKeys; i += kLanes) {
    const __m512 w = power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(scores + i), factor, shift));
    total = _mm512_add_ps(total, w);
    store(weights + i, w);
  }
  keep = std::exp2(largest - now);
  sum = sum * keep + _mm512_reduce_add_ps(total);
  return now;
}

// Keys [S D] as the right operand of q k^T and values [S D] as that of weights v, block by block, padded with zeros.
template <typename T>
void pack(const T* k, const T* v, int64_t k_row, int64_t v_row, int64_t S, int64_t D, int64_t Dp, T* keys, T* values) {
  const int64_t blocks = (S + kKeys - 1) / kKeys;
  std::fill(keys, keys + blocks * kKeys * Dp, T(0));
  std::fill(values, values + blocks * kKeys * D, T(0));
  for (int64_t s = 0; s < S; ++s)
    for (int64_t d = 0; d < D; ++d) {
      keys[s / kKeys * kKeys * Dp + place<T>(d, s % kKeys, kKeys)] = k[s * k_row + d];
      values[place<T>(s, d, D)] = v[s * v_row + d];
    }
}

// Up to 32 queries of one head against all its keys -> out.
template <typename T>
struct Block {
  int64_t S, D, Dp;
  float scale;
  std::vector<T> queries, weights;
  std::vector<float> scores, result;

  Block(int64_t S, int64_t D, int64_t Dp)
      : S(S), D(D), Dp(Dp), scale(1.44269504f / std::sqrt(static_cast<float>(D))), queries(kQueries * Dp),
        weights(kQueries * kKeys), scores(kQueries * kKeys), result(kQueries * D) {}

  void attend(int64_t rows, const T* q, int64_t q_row, const T* keys, const T* values, T* out, int64_t out_row) {
    float largest[kQueries], sum[kQueries] = {}, keep[kQueries];
    std::fill(largest, largest + kQueries, -std::numeric_limits<float>::infinity());
    for (int64_t r = 0; r < rows; ++r) std::copy(q + r * q_row, q + r * q_row + D, queries.data() + r * Dp);
    for (int64_t s = 0; s < S; s += kKeys) {
      multiply<T>(rows, kKeys, Dp, Dp, kKeys, kKeys, false, queries.data(), keys + s * Dp, scores.data());
      for (int64_t r = 0; r < rows; ++r) {
        float* row = scores.data() + r * kKeys;
        if (s + kKeys > S) std::fill(row + S - s, row + kKeys, -std::numeric_limits<float>::infinity());
        largest[r] = soften(row, weights.data() + r * kKeys, scale, largest[r], sum[r], keep[r]);
        if (s > 0 && keep[r] != 1)
          for (int64_t d = 0; d < D; ++d) result[r * D + d] *= keep[r];
      }
      multiply<T>(rows, D, kKeys, kKeys, D, D, s > 0, weights.data(), values + s * D, result.data());
    }
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t d = 0; d < D; ++d) out[r * out_row + d] = static_cast<T>(result[r * D + d] / sum[r]);
  }
};

template <typename T>
void attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, at::Tensor& out, int64_t heads) {
  const int64_t B = q.size(0), L = q.size(1), S = k.size(1), D = q.size(2) / heads;
  const int64_t Dp = (D + kPair<T> - 1) / kPair<T> * kPair<T>, Sp = (S + kKeys - 1) / kKeys * kKeys;
  const int64_t blocks = (L + kQueries - 1) / kQueries;
  auto keys = at::empty({B * heads, Sp * Dp}, q.options()), values = at::empty({B * heads, Sp * D}, q.options());
  T *keys_at = keys.data_ptr<T>(), *values_at = values.data_ptr<T>(), *out_at = out.data_ptr<T>();
  const T *q_at = q.const_data_ptr<T>(), *k_at = k.const_data_ptr<T>(), *v_at = v.const_data_ptr<T>();

  at::parallel_for(0, B * heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / heads, head = i % heads * D;
      pack(k_at + b * k.stride(0) + head, v_at + b * v.stride(0) + head, k.stride(1), v.stride(1), S, D, Dp,
           keys_at + i * Sp * Dp, values_at + i * Sp * D);
    }
  });
  at::parallel_for(0, B * heads * blocks, 1, [&](int64_t begin, int64_t end) {
    Block<T> block(S, D, Dp);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t pair = i / blocks, first = i % blocks * kQueries, b = pair / heads, head = pair % heads * D;
      block.attend(std::min(kQueries, L - first), q_at + b * q.stride(0) + first * q.stride(1) + head, q.stride(1),
                   keys_at + pair * Sp * Dp, values_at + pair * Sp * D,
                   out_at + b * out.stride(0) + first * out.stride(1) + head, out.stride(1));
    }
    at::native::cpublas::brgemm_release(kPair<T> == 2);
  });
}

at::Tensor shape_of(const at::Tensor& q, const at::Tensor&, const at::Tensor&, int64_t) {
  return at::empty_symint(q.sym_sizes(), q.options());
}

// q [B L H*D], k and v [B S H*D], bfloat16 or float32 -> [B L H*D].
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t heads) {
  TORCH_CHECK(q.dim() == 3 && k.dim() == 3 && v.sizes() == k.sizes() && k.size(0) == q.size(0) &&
                  k.size(2) == q.size(2) && heads > 0 && q.size(2) % heads == 0 && k.size(1) > 0,
              "q ", q.sizes(), ", k ", k.sizes(), " and v ", v.sizes(), " do not fit ", heads, " heads");
  TORCH_CHECK(q.scalar_type() == k.scalar_type() && q.scalar_type() == v.scalar_type(), "q, k and v differ in dtype");
  const auto q_ = q.contiguous(), k_ = k.contiguous(), v_ = v.contiguous();
  auto out = at::empty(q.sizes(), q.options());
  if (q.scalar_type() == at::kBFloat16) {
    attend<BFloat16>(q_, k_, v_, out, heads);
  } else {
    TORCH_CHECK(q.scalar_type() == at::kFloat, "dtype ", q.scalar_type(), " is neither bfloat16 nor float32");
    attend<float>(q_, k_, v_, out, heads);
  }
  return out;
}

}  // namespace

TORCH_LIBRARY(ldm, m) {
  m.def("attention(Tensor q, Tensor k, Tensor v, int heads) -> Tensor");
  m.impl("attention", c10::DispatchKey::CPU, attention);
  m.impl("attention", c10::DispatchKey::Meta, shape_of);  // for torch.compile
}
