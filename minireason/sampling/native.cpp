// The sampler's loop on a CPU: prompts in, drawn tokens and their logprobs out (native.py).
//
// Weights lie in panels of 2 W columns (vectors.h), and so do cached keys (2 W tokens wide, D high)
// and values (2 W numbers wide, a token high): attention is two more products. A token knows which
// caches it reads and where it stands, so prefill and decoding are one step. A thread decodes
// `block` rows at a time, few enough that what they cached stays near the core, and takes a new row
// where one ends.
// A row's sums run in one order whoever shares its block: neither threads nor other rows change it.

#include "vectors.h"

#include <functional>
#include <initializer_list>
#include <numeric>

struct Layer {                      // matrices in panels, the norms' gains in them
    const float *qkv, *out, *gate_up, *down;
    const float *q_gain, *k_gain;   // (D,); q's / sqrt(D)
};

struct Job {                        // mirrored by native.py
    const Layer* layers;
    const float *embedding, *unembedding;      // (V, d_model); panels
    const float *cos, *sin;                    // (max_len, D / 2)
    const Int *prompt_tokens, *prompt_starts;  // all prompts end to end; (P + 1,)
    const Int *source, *limits;                // (B,) prompt of a row; tokens that it may draw
    const double* uniform;                     // (B, max_new)
    const Int* ends;                           // tokens that end a row
    Int* tokens;                               // out (B, max_new)
    float* logprobs;                           // out (B, max_new)
    Int* lengths;                              // out (B,): tokens drawn
    Int n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff, vocab_size;
    Int max_len, prompts, longest, rows, max_new, n_ends, top_k, threads, block;
    double norm_eps, temperature, top_p;
};

// s = exp(s - max) for n numbers, a multiple of W; returns their sum.
static float softmax(float* s, Int n) {
    float top = s[0], total = 0;
    Vec sum = {};
#pragma omp simd reduction(max : top)
    for (Int i = 0; i < n; i++) top = s[i] > top ? s[i] : top;
    for (Int i = 0; i < n; i += W) {
        Vec e = exp_of(load(s + i) - top);
        store(s + i, e);
        sum += e;
    }
    for (int i = 0; i < W; i++) total += sum[i];
    return total;
}

struct Cache {                      // of one row or prompt, in blocks of one layer and KV head each
    float *k = nullptr, *v = nullptr;   // (S / PANEL, D, PANEL) and (DP / PANEL, S, PANEL) a block
    Int room = 0, seen = 0;         // S, a multiple of PANEL; tokens to read
};
struct Token {
    Int id;
    Cache prompt, own;              // it is appended to `own` as the last one seen
};
struct Row {
    Int row, t, slot, token;        // its number, tokens drawn, place of its cache, the last token
};

class Worker {                      // one thread's buffers and its part of the job
public:
    explicit Worker(const Job& job)
        : j(job), D(j.head_dim), DP(round_up(D, PANEL)), width(round_up(j.d_model, PANEL)),
          wide(round_up((j.n_heads + 2 * j.n_kv_heads) * D, PANEL)), ff(round_up(j.d_ff, PANEL)),
          V(round_up(j.vocab_size, PANEL)), prompt_room(round_up(j.longest, PANEL)),
          room(round_up(j.max_new, PANEL)), group(j.n_heads / j.n_kv_heads),
          span(prompt_room + room), x(buffer(j.block * width)), unit(buffer(j.block * width)),
          qkv(buffer(j.block * wide)), attended(buffer(j.block * j.n_heads * D)),
          gates(buffer(j.block * 2 * ff)), logits(buffer(j.block * V)),
          scores(buffer(group * span)), mixed(buffer(group * DP)), sums(buffer(group)),
          chances(buffer(V)), own(buffer(j.block * cache_size(room))) {}

    Int cache_size(Int tokens) const { return j.n_layers * j.n_kv_heads * tokens * (D + DP); }

    // Fill the cache of prompt p; its next logits go to `last` (V,).
    void prefill(Int p, float* cache, float* last) {
        Int from = j.prompt_starts[p], n = j.prompt_starts[p + 1] - from;
        for (Int i = 0; i < n; i += batch.size()) {
            batch.clear();
            for (Int t = i; t < std::min(n, i + j.block); t++)
                batch.push_back({j.prompt_tokens[from + t], {}, at(cache, prompt_room, t + 1)});
            step();
        }
        std::copy_n(&logits[(batch.size() - 1) * V], V, last);
    }

    // Decode rows next, next + 1, ... until none is left, from all prompts' caches and logits.
    void decode(std::atomic<Int>& next, float* caches, const float* first) {
        std::vector<Row> live;
        std::vector<Int> slots(j.block);
        std::iota(slots.begin(), slots.end(), 0);
        for (bool more = true; more || !live.empty();) {
            while (more && Int(live.size()) < j.block) {
                Row row{next++, 0, slots.back(), 0};
                if (!(more = row.row < j.rows)) break;
                std::copy_n(first + j.source[row.row] * V, V, logits.get());
                if (!draw(row, logits.get())) continue;
                live.push_back(row);
                slots.pop_back();
            }
            batch.clear();
            for (const Row& r : live) {
                Int p = j.source[r.row], n = j.prompt_starts[p + 1] - j.prompt_starts[p];
                batch.push_back({r.token, at(caches + p * cache_size(prompt_room), prompt_room, n),
                                 at(&own[r.slot * cache_size(room)], room, r.t)});
            }
            step();
            size_t kept = 0;
            for (size_t i = 0; i < live.size(); i++)
                if (draw(live[i], &logits[i * V])) live[kept++] = live[i];
                else slots.push_back(live[i].slot);
            live.resize(kept);
        }
    }

private:
    const Job& j;
    const Int D, DP, width, wide, ff, V, prompt_room, room, group, span;
    Buffer x, unit, qkv, attended, gates, logits, scores, mixed, sums, chances, own;
    std::vector<Token> batch;

    Cache at(float* base, Int tokens, Int seen) const {
        return {base, base + j.n_layers * j.n_kv_heads * tokens * D, tokens, seen};
    }

    void step() {                   // all tokens of the batch through the model, to `logits`
        Int n = batch.size();
        for (Int b = 0; b < n; b++) {
            std::fill_n(&x[b * width], width, 0.0f);
            std::copy_n(j.embedding + batch[b].id * j.d_model, j.d_model, &x[b * width]);
        }
        for (Int l = 0; l < j.n_layers; l++) {
            const Layer& layer = j.layers[l];
            product(normed(), width, layer.qkv, j.d_model, qkv.get(), wide);
            for (Int b = 0; b < n; b++) append(l, b);
            for (Int b = 0; b < n; b++)
                for (Int h = 0; h < j.n_kv_heads; h++) attend(l, b, h);
            product(attended.get(), j.n_heads * D, layer.out, j.n_heads * D, x.get(), width, true);
            product(normed(), width, layer.gate_up, j.d_model, gates.get(), 2 * ff);
            for (Int b = 0; b < n; b++) swiglu(&gates[b * 2 * ff]);
            product(gates.get(), 2 * ff, layer.down, j.d_ff, x.get(), width, true);
        }
        product(normed(), width, j.unembedding, j.d_model, logits.get(), V);
    }

    // y (n, ldy) = the batch's rows times a weight matrix of ldy columns
    void product(const float* from, Int ldx, const float* matrix, Int k, float* y, Int ldy,
                 bool add = false) {
        multiply({from, ldx}, batch.size(), {matrix, PANEL, k * PANEL}, k, ldy, y, ldy, add);
    }

    const float* normed() {         // RMSNorm of x, its gain left to the next matrix
        for (size_t b = 0; b < batch.size(); b++) {
            const float* row = &x[b * width];
            float scale = inverse_rms(row, j.d_model, j.norm_eps);
            for (Int i = 0; i < width; i++) unit[b * width + i] = row[i] * scale;
        }
        return unit.get();
    }

    void swiglu(float* gate) const {
        for (Int i = 0; i < ff; i += W) {
            Vec g = load(gate + i);
            store(gate + i, g / (1.0f + exp_of(-g)) * load(gate + ff + i));
        }
    }

    // QK-norm and rotation of token b's q and k, in place; then k and v into its own cache.
    void append(Int l, Int b) {
        const Cache& c = batch[b].own;
        Int place = c.seen - 1, position = batch[b].prompt.seen + place, half = D / 2;
        const float *cos = j.cos + position * half, *sin = j.sin + position * half;
        float *head = &qkv[b * wide], *k = head + j.n_heads * D, *v = k + j.n_kv_heads * D;
        for (; head < v; head += D) {
            const float* gain = head < k ? j.layers[l].q_gain : j.layers[l].k_gain;
            float scale = inverse_rms(head, D, j.norm_eps);
#pragma omp simd
            for (Int i = 0; i < half; i++) {
                float first = head[i] * scale * gain[i];
                float second = head[half + i] * scale * gain[half + i];
                head[i] = first * cos[i] - second * sin[i];
                head[half + i] = second * cos[i] + first * sin[i];
            }
        }
        for (Int h = 0; h < j.n_kv_heads; h++, k += D, v += D) {
            Int block = (l * j.n_kv_heads + h) * c.room;
            float* to = c.k + block * D + place / PANEL * PANEL * D + place % PANEL;
            for (Int i = 0; i < D; i++) to[i * PANEL] = k[i];
            to = c.v + block * DP + place * PANEL;
            for (Int i = 0; i < D; i += PANEL)
                std::copy_n(v + i, std::min<Int>(PANEL, D - i), to + i * c.room);
        }
    }

    // The query heads of token b that share KV head h, over the prompt and over the row's own past.
    void attend(Int l, Int b, Int h) {
        const float* q = &qkv[b * wide + h * group * D];
        float* out = &attended[(b * j.n_heads + h * group) * D];
        Int n = 0, begin = 0, block = l * j.n_kv_heads + h;
        for (const Cache& c : {batch[b].prompt, batch[b].own}) {
            multiply({q, D}, group, {c.k + block * c.room * D, PANEL, D * PANEL}, D, c.seen,
                     &scores[n], span);
            begin = n;
            n += round_up(c.seen, W);
            for (Int g = 0; g < group; g++)                 // behind the last key
                std::fill(&scores[g * span + begin + c.seen], &scores[g * span + n], LOWEST);
        }
        std::fill_n(mixed.get(), group * DP, 0.0f);
        for (Int g = 0; g < group; g++) sums[g] = softmax(&scores[g * span], n);
        n = 0;
        for (const Cache& c : {batch[b].prompt, batch[b].own}) {
            multiply({&scores[n], span}, group, {c.v + block * c.room * DP, PANEL, c.room * PANEL},
                     c.seen, D, mixed.get(), DP, true);
            n += round_up(c.seen, W);
        }
        for (Int g = 0; g < group; g++)
            for (Int i = 0; i < D; i++) out[g * D + i] = mixed[g * DP + i] / sums[g];
    }

    // Draw token number t of a row from z (V,), as draw_tokens does; true if the row continues.
    bool draw(Row& r, float* z) {
        Int place = r.row * j.max_new + r.t, n = j.vocab_size;
        r.token = std::max_element(z, z + n) - z;
        j.logprobs[place] = 0;
        if (j.temperature > 0) {
            float top = z[r.token] / float(j.temperature);
            for (Int i = 0; i < n; i++) z[i] /= float(j.temperature);
            truncate(z);
            double total = 0, below = 0;
            for (Int i = 0; i < V; i += W) store(&chances[i], exp_of(load(z + i) - top));
            for (Int i = 0; i < n; i++) total += z[i] == LOWEST ? chances[i] = 0 : chances[i];
            for (r.token = 0; r.token < n - 1; r.token++)
                if ((below += chances[r.token]) > j.uniform[place] * total) break;
            j.logprobs[place] = z[r.token] - top - float(std::log(total));
        }
        j.tokens[place] = r.token;
        j.lengths[r.row] = ++r.t;
        const Int* end = j.ends + j.n_ends;
        return r.t < j.limits[r.row] && std::find(j.ends, end, r.token) == end;
    }

    // Top-k, then top-p: what is left out becomes -inf, as losses.truncate_logits has it.
    void truncate(float* z) const {
        Int n = j.vocab_size;
        if (0 < j.top_k && j.top_k < n) {
            std::vector<float> best(z, z + n);
            auto least = best.begin() + j.top_k - 1;
            std::nth_element(best.begin(), least, best.end(), std::greater<>());
            for (Int i = 0; i < n; i++) z[i] = z[i] < *least ? LOWEST : z[i];
        }
        if (j.top_p >= 1) return;
        std::vector<Int> order(n);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [z](Int a, Int b) { return z[a] > z[b]; });
        double total = 0, before = 0, top = z[order[0]];
        for (Int i : order) total += std::exp(z[i] - top);
        for (Int i : order) {
            double mass = std::exp(z[i] - top) / total;
            if (before >= j.top_p) z[i] = LOWEST;
            before += mass;
        }
    }
};

// Numbers in all buffers together or more, in floating point, where no product overflows.
static double numbers(const Job& j) {
    double D = j.head_dim + PANEL, V = j.vocab_size + PANEL, rows = double(j.threads) * j.block;
    double tokens = j.longest + j.max_new + 2.0 * PANEL, heads = j.n_heads + 2.0 * j.n_kv_heads;
    double cache = 2 * D * tokens * j.n_layers * j.n_kv_heads;
    return rows * (2 * j.d_model + 2 * heads * D + 2 * j.d_ff + V + 8 * PANEL + cache)
        + j.threads * (j.n_heads * (tokens + D) + V) + j.prompts * (cache + V);
}

// Whether every index that the job leads to lies inside its arrays.
static bool sound(const Job& j) {
    auto within = [](Int x, Int low, Int high) { return low <= x && x < high; };
    for (const void* array : std::initializer_list<const void*>{
             j.layers, j.embedding, j.unembedding, j.cos, j.sin, j.prompt_tokens, j.prompt_starts,
             j.source, j.limits, j.uniform, j.ends, j.tokens, j.logprobs, j.lengths})
        if (array == nullptr) return false;
    for (Int size : {j.n_layers, j.d_model, j.n_heads, j.n_kv_heads, j.head_dim, j.d_ff,
                     j.vocab_size, j.max_len, j.prompts, j.longest, j.rows, j.max_new, j.n_ends,
                     j.threads, j.block})
        if (!within(size, 1, Int(1) << 31)) return false;
    if (j.n_heads % j.n_kv_heads || j.head_dim % 2 || j.prompt_starts[0] != 0) return false;
    if (j.longest >= j.max_len || j.threads > j.rows || j.block > j.rows) return false;
    for (Int p = 0; p < j.prompts; p++) {
        Int from = j.prompt_starts[p], to = j.prompt_starts[p + 1];
        if (!within(to, from + 1, from + j.longest + 1)) return false;
        for (Int i = from; i < to; i++)
            if (!within(j.prompt_tokens[i], 0, j.vocab_size)) return false;
    }
    for (Int r = 0; r < j.rows; r++) {
        Int p = j.source[r];
        if (!within(p, 0, j.prompts) || !within(j.limits[r], 1, j.max_new + 1)) return false;
        if (j.prompt_starts[p + 1] - j.prompt_starts[p] + j.limits[r] > j.max_len) return false;
    }
    return true;
}

extern "C" {
__attribute__((visibility("default"))) int panel_width() { return PANEL; }

// Decode all rows of a job; returns 0, 1 where there is not enough memory, 2 for an unsound job.
__attribute__((visibility("default"))) int decode_rows(const Job* job) try {
    if (job == nullptr || !sound(*job)) return 2;
    if (numbers(*job) > 1e14) return 1;
    std::vector<Worker> workers;
    for (Int i = 0; i < job->threads; i++) workers.emplace_back(*job);
    Int size = workers[0].cache_size(round_up(job->longest, PANEL));
    Int vocab = round_up(job->vocab_size, PANEL);
    Buffer caches = buffer(job->prompts * size), first = buffer(job->prompts * vocab);
    std::atomic<Int> prompt{0}, row{0};
    in_threads(workers, [&](Worker& w) {
        for (Int p; (p = prompt++) < job->prompts;)
            w.prefill(p, &caches[p * size], &first[p * vocab]);
    });
    in_threads(workers, [&](Worker& w) { w.decode(row, caches.get(), first.get()); });
    return 0;
} catch (const std::bad_alloc&) {
    return 1;
}
}
