// The layers of a training step between its matrix products, with their derivatives, on a CPU
// (native_layers.py, which has the formulas).
//
// What is cheap to compute again is not kept: the backward pass has the forward pass's inputs
// alone. Threads take whole parts of the work, and a gain's gradient is summed up part by part in
// order, so that their number changes no bit.

#include "vectors.h"

#include <atomic>
#include <cstring>

constexpr Int PART = 64;            // tokens

static Vec load(const float* p, Int n) {    // the first n numbers, 0 behind them
    if (n >= W) return load(p);
    Vec v = {};
    std::memcpy(&v, p, 4 * n);
    return v;
}
static void store(float* p, Vec v, Int n) {
    if (n >= W) store(p, v);
    else std::memcpy(p, &v, 4 * n);
}

// work(begin, end) for every part of n tokens.
template <class Work>
static int in_parts(Int n, Int threads, Work work) try {
    std::atomic<Int> next{0};
    std::vector<Int> workers(std::max<Int>(1, std::min(threads, n / PART)));
    in_threads(workers, [&](Int) {
        for (Int i; (i = PART * next++) < n;) work(i, std::min(n, i + PART));
    });
    return 0;
} catch (const std::bad_alloc&) {
    return 1;
}

// total (d,) = the sum of n lines.
static void add_up(const float* lines, Int n, Int d, float* total) {
    std::fill_n(total, d, 0.0f);
    for (Int i = 0; i < n; i++)
#pragma omp simd
        for (Int c = 0; c < d; c++) total[c] += lines[i * d + c];
}

struct Attention {                  // mirrored by native_layers.py
    const float *qkv, *q_gain, *k_gain, *cos, *sin;
    const int32_t *starts;          // (segments + 1,): where each segment begins
    const int32_t *groups;          // (n_groups + 1,): the segment with which each group begins
    float* out;                     // (N, H D)
    const float* d_out;
    float *d_qkv, *d_gains;         // (N, (H + 2 Hkv) D); (2, D) of q and k
    Int tokens, segments, n_groups, n_heads, n_kv_heads, head_dim, max_len, threads;
    double eps;
};

// A size that the compiler knows, if it is not 0.
template <Int KNOWN>
struct Size {
    Int given;
    operator Int() const { return KNOWN ? KNOWN : given; }
};

struct First {                      // which numbers of a vector are among the first n
    Ints number, n;
    explicit First(Int count) : number{}, n{} {
        for (int i = 0; i < W; i++) number[i] = i, n[i] = int32_t(count);
    }
    Vec or_else(Vec v, float rest) const { return number < n ? v : Vec{} + rest; }
};

template <class Fold>
static float folded(Vec v, Fold fold) {
    float t[W];
    store(t, v);
    for (int half = W / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) t[i] = fold(t[i], t[i + half]);
    return t[0];
}
static float sum_of(Vec v) { return folded(v, [](float a, float b) { return a + b; }); }
static float most_of(Vec v) { return folded(v, [](float a, float b) { return a > b ? a : b; }); }

// s = e^(s - max) of the first n numbers, 0 behind them up to `end`, a multiple of W; their sum.
static float weights_of(float* s, Int n, Int end) {
    Int last = (n - 1) / W * W;
    First first(n - last);
    Vec tail = first.or_else(load(s + last), LOWEST), top = tail, sum = {};
    for (Int i = 0; i < last; i += W) top = load(s + i) > top ? load(s + i) : top;
    float most = most_of(top);
    for (Int i = 0; i < last; i += W) {
        Vec e = exp_of(load(s + i) - most);
        store(s + i, e);
        sum += e;
    }
    tail = first.or_else(exp_of(tail - most), 0);
    store(s + last, tail);
    for (Int i = last + W; i < end; i += W) store(s + i, Vec{});
    return sum_of(sum + tail);
}

// The derivative: p of the first n numbers is scaled, and d = p * (d - sum of p d), 0 up to `end`.
static void weights_back(float* p, float* d, Int n, Int end, float scale) {
    Int last = (n - 1) / W * W;
    First first(n - last);
    Vec along = {}, tail = first.or_else(load(d + last), 0);
    store(d + last, tail);
    for (Int i = 0; i <= last; i += W) {
        Vec scaled = load(p + i) * scale;
        store(p + i, scaled);
        along += scaled * load(d + i);
    }
    float mean = sum_of(along);
    for (Int i = 0; i <= last; i += W) store(d + i, load(p + i) * (load(d + i) - mean));
    for (Int i = last + W; i < end; i += W) store(d + i, Vec{});
}

// One thread's buffers. Keys and values of a group's first segment, its prompt, stand first and
// stay; those of each further segment stand behind them, in the place of the one before.
template <Int DIM>
class Worker {
public:
    Worker(const Attention& attention, Int keys)
        : a(attention), D{a.head_dim}, half{D / 2}, DP{round_up(D, W)}, room(round_up(keys, PANEL)),
          wide((a.n_heads + 2 * a.n_kv_heads) * D), learns(a.d_qkv != nullptr) {
        for (Buffer* rows : {&q, &k, &v, &out}) *rows = buffer(room * DP);
        k_turned = buffer(D * room);
        scores = buffer((learns ? room : TILE) * room);
        if (!learns) return;
        for (Buffer* rows : {&d_out, &dq, &dk, &dv}) *rows = buffer(room * DP);
        v_turned = buffer(D * room);
        d_scores = buffer(room * room);
    }

    // One group, forward or, with a line (2, D) for what it adds to the gains' gradient, backward.
    void run(Int group, float* d_gains) {
        Int first = a.groups[group], many = a.n_heads / a.n_kv_heads;
        Int from = a.starts[first], to = a.starts[a.groups[group + 1]];
        fetch(a.qkv, from * wide, to * wide);
        if (learns) fetch(a.d_out, from * a.n_heads * D, to * a.n_heads * D);
        if (learns) fetch(a.d_qkv, from * wide, to * wide);
        for (Int kv = 0; kv < a.n_kv_heads; kv++) {
            seen = 0;
            for (Int s = first; s < a.groups[group + 1]; s++) {
                begin = a.starts[s], n = a.starts[s + 1] - begin;
                load_keys(kv);
                for (Int h = kv * many; h < (kv + 1) * many; h++) {
                    for (Int t = 0; t < n; t++)
                        turn(qkv(t, h), a.q_gain, seen + t, 1 / std::sqrt(float(D)), &q[t * DP]);
                    if (learns) backward(h, d_gains);
                    else forward(h);
                }
                if (s > first && learns) finish_keys(kv, d_gains + D);
                if (s == first) seen = n;
            }
            begin = a.starts[first], n = seen, seen = 0;
            if (learns) finish_keys(kv, d_gains + D);
        }
    }

private:
    const Attention& a;
    const Size<DIM> D;
    const Size<DIM / 2> half;
    const Size<(DIM + W - 1) / W * W> DP;
    const Int room, wide;
    const bool learns;
    Buffer q, k, v, out, k_turned, v_turned, scores, d_scores, d_out, dq, dk, dv;
    Int begin, n, seen;             // first token and length of the segment; keys of its prompt

    // Have numbers brought near: read head by head, they would come late.
    static void fetch(const float* p, Int from, Int to) {
        for (Int i = from; i < to; i += 16) __builtin_prefetch(p + i);
    }

    // Token t of the segment in qkv: head h, keys' heads behind the queries', values' behind those.
    const float* qkv(Int t, Int h) const { return a.qkv + (begin + t) * wide + h * D; }
    float* d_qkv(Int t, Int h) const { return a.d_qkv + (begin + t) * wide + h * D; }

    // y = RMSNorm of a head, rotated, times a factor
    void turn(const float* x, const float* gain, Int position, float factor, float* y) const {
        const float *cos = a.cos + position * half, *sin = a.sin + position * half;
        float scale = inverse_rms(x, D, a.eps) * factor;
#pragma omp simd
        for (Int i = 0; i < half; i++) {
            float one = x[i] * scale * gain[i], two = x[half + i] * scale * gain[half + i];
            y[i] = one * cos[i] - two * sin[i];
            y[half + i] = two * cos[i] + one * sin[i];
        }
    }

    // The derivative of turn, from dy, which it overwrites.
    void turn_back(float* dy, const float* x, const float* gain, Int position, float factor,
                   float* dx, float* d_gain) const {
        const float *cos = a.cos + position * half, *sin = a.sin + position * half;
        float scale = inverse_rms(x, D, a.eps), along = 0;
#pragma omp simd
        for (Int i = 0; i < half; i++) {
            float one = (dy[i] * cos[i] + dy[half + i] * sin[i]) * factor;
            float two = (dy[half + i] * cos[i] - dy[i] * sin[i]) * factor;
            dy[i] = one, dy[half + i] = two;
        }
#pragma omp simd reduction(+ : along)
        for (Int i = 0; i < D; i++) {
            d_gain[i] += dy[i] * x[i] * scale;
            dy[i] *= gain[i] * scale;
            along += dy[i] * x[i];
        }
        along *= scale * scale / float(D);
#pragma omp simd
        for (Int i = 0; i < D; i++) dx[i] = dy[i] - along * x[i];
    }

    void load_keys(Int kv) {
        for (Int t = 0; t < n; t++) {
            Int at = seen + t;
            float *key = &k[at * DP], *value = &v[at * DP];
            turn(qkv(t, a.n_heads + kv), a.k_gain, at, 1, key);
            std::copy_n(qkv(t, a.n_heads + a.n_kv_heads + kv), +D, value);
            for (Int i = 0; i < D; i++) k_turned[i * room + at] = key[i];
            for (Int i = 0; learns && i < D; i++) v_turned[i * room + at] = value[i];
        }
        for (Buffer* sums : {&dk, &dv})
            if (learns) std::fill_n(&(*sums)[seen * DP], n * DP, 0.0f);
    }

    // Queries from .. to: e^(score - the highest), 0 for what comes after a query; their sums.
    void weigh(Int from, Int to, float* rows, float* sums) const {
        Int keys = seen + to;
        multiply({&q[from * DP], DP}, to - from, {k_turned.get(), room, PANEL}, D, keys, rows,
                 room);
        for (Int i = from; i < to; i++, rows += room)
            *sums++ = weights_of(rows, seen + i + 1, round_up(keys, W));
    }

    void forward(Int h) {
        float sums[TILE];
        for (Int from = 0, to; from < n; from = to) {
            to = std::min(n, from + TILE);
            weigh(from, to, scores.get(), sums);
            multiply({scores.get(), room}, to - from, {v.get(), DP, PANEL}, seen + to, D, out.get(),
                     DP);
            for (Int i = from; i < to; i++)
                for (Int c = 0; c < D; c++)
                    a.out[((begin + i) * a.n_heads + h) * D + c]
                        = out[(i - from) * DP + c] / sums[i - from];
        }
    }

    void backward(Int h, float* d_gains) {
        float sums[TILE];
        for (Int t = 0; t < n; t++)
            std::copy_n(a.d_out + ((begin + t) * a.n_heads + h) * D, +D, &d_out[t * DP]);
        for (Int from = 0, to; from < n; from = to) {
            to = std::min(n, from + TILE);
            Int keys = seen + to;
            float *row = &scores[from * room], *d_row = &d_scores[from * room];
            weigh(from, to, row, sums);
            multiply({&d_out[from * DP], DP}, to - from, {v_turned.get(), room, PANEL}, D, keys,
                     d_row, room);
            for (Int i = from; i < to; i++, row += room, d_row += room)
                weights_back(row, d_row, seen + i + 1, round_up(keys, W), 1 / sums[i - from]);
            multiply({&d_scores[from * room], room}, to - from, {k.get(), DP, PANEL}, keys, D,
                     &dq[from * DP], DP);
        }
        for (Int from = 0, to; from < seen + n; from = to) {      // keys, the prompt's first
            to = std::min(from < seen ? seen : seen + n, from + TILE);
            Int skip = std::max<Int>(0, from - seen);             // queries before these keys
            Rows<> weights{&scores[skip * room + from], 1, room};
            Rows<> d_weights{&d_scores[skip * room + from], 1, room};
            multiply(weights, to - from, {&d_out[skip * DP], DP, PANEL}, n - skip, D,
                     &dv[from * DP], DP, true);
            multiply(d_weights, to - from, {&q[skip * DP], DP, PANEL}, n - skip, D,
                     &dk[from * DP], DP, true);
        }
        for (Int t = 0; t < n; t++)
            turn_back(&dq[t * DP], qkv(t, h), a.q_gain, seen + t, 1 / std::sqrt(float(D)),
                      d_qkv(t, h), d_gains);
    }

    void finish_keys(Int kv, float* d_gain) {
        for (Int t = 0; t < n; t++) {
            Int at = seen + t, h = a.n_heads + kv;
            turn_back(&dk[at * DP], qkv(t, h), a.k_gain, at, 1, d_qkv(t, h), d_gain);
            std::copy_n(&dv[at * DP], +D, d_qkv(t, h + a.n_kv_heads));
        }
    }
};

// The most keys that a group has, or -1 if some index leads out of its array.
static Int most_keys(const Attention& a) {
    for (const void* array : {(const void*)a.qkv, (const void*)a.q_gain, (const void*)a.k_gain,
                              (const void*)a.cos, (const void*)a.sin, (const void*)a.starts,
                              (const void*)a.groups})
        if (array == nullptr) return -1;
    if (a.d_qkv == nullptr ? a.out == nullptr : a.d_out == nullptr || a.d_gains == nullptr)
        return -1;
    for (Int size : {a.n_heads, a.n_kv_heads, a.head_dim, a.max_len, a.threads})
        if (size < 1 || size > Int(1) << 20) return -1;
    for (Int size : {a.tokens, a.segments, a.n_groups})
        if (size < 0 || size > Int(1) << 31) return -1;
    if (a.n_heads % a.n_kv_heads || a.head_dim % 2 || a.starts[0] || a.groups[0]) return -1;
    if (a.starts[a.segments] != a.tokens || a.groups[a.n_groups] != a.segments) return -1;
    Int most = 0;
    for (Int g = 0; g < a.n_groups; g++) {
        Int first = a.groups[g], end = a.groups[g + 1], prompt = 0;
        if (first < 0 || end <= first || end > a.segments) return -1;
        for (Int s = first; s < end; s++) {
            Int from = a.starts[s], length = a.starts[s + 1] - from;
            if (from < 0 || length < 1 || from + length > a.tokens) return -1;
            most = std::max(most, prompt + length);
            if (s == first) prompt = length;
        }
    }
    return most <= a.max_len ? most : -1;
}

template <Int DIM>
static int run(const Attention& a, Int keys) {
    Int D = a.head_dim;
    Buffer gains = buffer(a.n_groups * 2 * D + 1);
    std::atomic<Int> next{0};
    std::vector<Worker<DIM>> workers;
    for (Int i = std::max<Int>(1, std::min(a.threads, a.n_groups)); i > 0; i--)
        workers.emplace_back(a, keys);
    in_threads(workers, [&](Worker<DIM>& worker) {
        for (Int g; (g = next++) < a.n_groups;) {
            if (a.d_qkv != nullptr) std::fill_n(&gains[g * 2 * D], 2 * D, 0.0f);
            worker.run(g, &gains[g * 2 * D]);
        }
    });
    if (a.d_qkv != nullptr) add_up(gains.get(), a.n_groups, 2 * D, a.d_gains);
    return 0;
}

extern "C" {
#define EXPORTED __attribute__((visibility("default")))

// total = x + update, where there is one; y = total * scale * gain with scale = 1 / rms(total)
EXPORTED int norm_forward(const float* x, const float* update, const float* gain, float* total,
                          float* y, float* scale, Int n, Int d, double eps, Int threads) {
    return in_parts(n, threads, [=](Int begin, Int end) {
        for (Int r = begin; r < end; r++) {
            const float* from = x + r * d;
            float* to = y + r * d;
            if (update != nullptr) {
                const float* more = update + r * d;
                float* sum = total + r * d;
#pragma omp simd
                for (Int i = 0; i < d; i++) sum[i] = from[i] + more[i];
                from = sum;
            }
            float by = scale[r] = inverse_rms(from, d, eps);
#pragma omp simd
            for (Int i = 0; i < d; i++) to[i] = from[i] * by * gain[i];
        }
    });
}

// dx of x and of update alike, from dy and, where there is one, d_total; d_gain (d,)
EXPORTED int norm_backward(const float* dy, const float* d_total, const float* total,
                           const float* scale, const float* gain, float* dx, float* d_gain, Int n,
                           Int d, Int threads) try {
    Buffer gains = buffer((n / PART + 1) * d);
    int fault = in_parts(n, threads, [=, &gains](Int begin, Int end) {
        float* part = std::fill_n(&gains[begin / PART * d], d, 0.0f) - d;
        for (Int r = begin; r < end; r++) {
            const float *x = total + r * d, *dr = dy + r * d;
            float *to = dx + r * d, by = scale[r], along = 0;
#pragma omp simd reduction(+ : along)
            for (Int i = 0; i < d; i++) {
                part[i] += dr[i] * x[i] * by;
                along += dr[i] * gain[i] * x[i];
            }
            along *= by * by * by / float(d);
            if (d_total == nullptr) {
#pragma omp simd
                for (Int i = 0; i < d; i++) to[i] = dr[i] * gain[i] * by - x[i] * along;
            } else {
                const float* more = d_total + r * d;
#pragma omp simd
                for (Int i = 0; i < d; i++)
                    to[i] = dr[i] * gain[i] * by - x[i] * along + more[i];
            }
        }
    });
    add_up(gains.get(), (n + PART - 1) / PART, d, d_gain);
    return fault;
} catch (const std::bad_alloc&) {
    return 1;
}

// out (n, f) = silu(gate) * up of gate_up (n, 2 f)
EXPORTED int swiglu_forward(const float* gate_up, float* out, Int n, Int f, Int threads) {
    return in_parts(n, threads, [=](Int begin, Int end) {
        for (Int r = begin; r < end; r++)
            for (Int i = 0; i < f; i += W) {
                const float* gate = gate_up + 2 * r * f + i;
                Vec g = load(gate, f - i);
                store(out + r * f + i, g / (1.0f + exp_of(-g)) * load(gate + f, f - i), f - i);
            }
    });
}

EXPORTED int swiglu_backward(const float* dy, const float* gate_up, float* d_gate_up, Int n, Int f,
                             Int threads) {
    return in_parts(n, threads, [=](Int begin, Int end) {
        for (Int r = begin; r < end; r++)
            for (Int i = 0; i < f; i += W) {
                const float* gate = gate_up + 2 * r * f + i;
                float* to = d_gate_up + 2 * r * f + i;
                Vec g = load(gate, f - i), d = load(dy + r * f + i, f - i);
                Vec open = 1.0f / (1.0f + exp_of(-g));
                store(to, d * load(gate + f, f - i) * open * (1.0f + g * (1.0f - open)), f - i);
                store(to + f, d * g * open, f - i);
            }
    });
}

// QK-norm, rotation and causal attention within groups: 0, 1 without memory, 2 for unsound indices.
EXPORTED int attention(const Attention* job) try {
    Int keys = most_keys(*job);
    if (keys < 0) return 2;
    return job->head_dim == 32 ? run<32>(*job, keys) : run<0>(*job, keys);
} catch (const std::bad_alloc&) {
    return 1;
}
}
