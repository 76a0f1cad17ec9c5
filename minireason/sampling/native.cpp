// The sampler's loop on a CPU: prompts in, drawn tokens and their logprobs out (native.py).
//
// Weights lie in panels of 2 W columns (vectors.h), and so do cached keys (2 W tokens wide, D high)
// and values (2 W numbers wide, a token high): attention is two more products. A token knows which
// caches it reads and where it stands, so prefill and decoding are one step. Rows of a prompt that
// drew the same tokens so far are one path: the model runs once for all of them. Where they part, one
// goes on and the others wait, and find in the same cache what they share with it. A thread decodes
// `block` paths at a time, few enough that what they cached stays near the core, and of few prompts:
// what a head asks of one prompt's keys is one product.
// A row's sums run in one order whoever shares its block: neither threads nor other rows change it.

#include "vectors.h"

#include <functional>
#include <initializer_list>
#include <numeric>

struct Layer {                      // matrices in panels, the norms' gains in them
    const void *qkv, *out, *gate_up, *down;    // of float, or of pairs of lines in bfloat16
    const float *q_gain, *k_gain;   // (D,); q's / sqrt(D)
};

struct Job {                        // mirrored by native.py
    const Layer* layers;
    const float* embedding;                    // (V, d_model)
    const void* unembedding;                   // panels
    const float *cos, *sin;                    // (max_len, D / 2)
    const Int *prompt_tokens, *prompt_starts;  // all prompts end to end; (P + 1,)
    const Int *source, *limits;                // (B,) prompt of a row; tokens that it may draw
    const double* uniform;                     // (B, max_new)
    const Int* ends;                           // tokens that end a row
    Int* tokens;                               // out (B, max_new)
    float* logprobs;                           // out (B, max_new)
    Int* lengths;                              // out (B,): tokens drawn
    // Null, or of a model that remembers what it has read (prefixes.py). A token's keys and values
    // are `kept` numbers: of each layer the keys of all KV heads, then the values.
    const float* const* known;                 // for each prompt token its own, null where unread
    float *fresh, *drawn;                      // out: of prompt tokens that were read; (B, max_new)
    float *likelihoods, *values;               // out, reading alone: log p of each token given
                                               // those before; (P,) the column behind the vocabulary
    float* row_values;                         // out (B, max_new), of rows that follow `tokens` as
                                               // they stand: that column before each token
    Int n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff, vocab_size;
    Int max_len, prompts, longest, rows, max_new, n_ends, top_k, threads, block, value_columns;
    Int bf16;                                  // whether the panels are
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
struct Path {
    Int t, token;                   // tokens drawn, the last of them, which no cache holds yet
    std::vector<Int> rows;          // that drew them, ascending
};

class Worker {                      // one thread's buffers and its part of the job
public:
    explicit Worker(const Job& job)
        : j(job), D(j.head_dim), DP(round_up(D, PANEL)), width(round_up(j.d_model, PANEL)),
          wide(round_up((j.n_heads + 2 * j.n_kv_heads) * D, PANEL)), ff(round_up(j.d_ff, PANEL)),
          V(round_up(j.vocab_size + j.value_columns, PANEL)),
          prompt_room(round_up(j.longest, PANEL)), room(round_up(j.max_new, PANEL)),
          group(j.n_heads / j.n_kv_heads), span(prompt_room + room), kept(2 * j.n_kv_heads * D),
          x(buffer(j.block * width)), unit(buffer(j.block * width)),
          qkv(buffer(j.block * wide)), attended(buffer(j.block * j.n_heads * D)),
          gates(buffer(j.block * 2 * ff)), logits(buffer(j.block * V)),
          scores(buffer(j.block * j.n_heads * span)), mixed(buffer(j.block * j.n_heads * DP)),
          sums(buffer(j.block * j.n_heads)),
          chances(buffer(V)), pairs(j.bf16 * j.block * std::max({width, ff, j.n_heads * D}) / 2),
          own(buffer(j.block * cache_size(room))) {}

    Int cache_size(Int tokens) const { return j.n_layers * j.n_kv_heads * tokens * (D + DP); }

    // Read prompts next, next + 1, ... into their caches; the logits behind each to `last` (P, V).
    void prefill(std::atomic<Int>& next, float* caches, float* last) {
        std::vector<std::pair<Int, Int>> places;            // prompt and token of each of the batch
        Int p = 0, t = 0, n = 0;
        do {
            batch.clear();
            places.clear();
            while (Int(batch.size()) < j.block) {
                if (t == n) {
                    if ((p = next++) >= j.prompts) break;
                    n = j.prompt_starts[p + 1] - j.prompt_starts[p];
                    t = recall(p, n - 1, caches + p * cache_size(prompt_room));
                }
                batch.push_back({j.prompt_tokens[j.prompt_starts[p] + t], {},
                                 at(caches + p * cache_size(prompt_room), prompt_room, t + 1)});
                places.push_back({p, t++});
            }
            if (!batch.empty()) step();
            for (size_t b = 0; b < batch.size(); b++)
                has_read(places[b].first, places[b].second, batch[b].own, &logits[b * V], last);
        } while (!batch.empty());
    }

    // Decode rows next, next + 1, ... until none is left, from all prompts' caches and logits.
    void decode(std::atomic<Int>& next, float* caches, const float* first) {
        std::vector<std::vector<Path>> waiting(j.block);    // of each place, which has a cache
        std::vector<std::pair<Int, Path>> live;             // at which places
        for (;;) {
            live.clear();
            for (Int s = 0; s < j.block; s++)
                if (Path* path = next_path(next, first, waiting, s)) {
                    live.push_back({s, std::move(*path)});
                    waiting[s].pop_back();
                }
            if (live.empty()) return;
            auto prompt_of = [&](const Path& path) { return j.source[path.rows[0]]; };
            std::sort(live.begin(), live.end(), [&](const auto& a, const auto& b) {
                return prompt_of(a.second) < prompt_of(b.second);       // see over_prompts
            });
            batch.clear();
            for (const auto& [place, path] : live) {
                Int p = prompt_of(path), n = j.prompt_starts[p + 1] - j.prompt_starts[p];
                batch.push_back({path.token,
                                 at(caches + p * cache_size(prompt_room), prompt_room, n),
                                 at(cache_of(place), room, path.t)});
            }
            step();
            for (size_t i = 0; i < live.size(); i++)
                draw(live[i].second, &logits[i * V], batch[i].own, waiting[live[i].first]);
        }
    }

private:
    const Job& j;
    const Int D, DP, width, wide, ff, V, prompt_room, room, group, span, kept;
    Buffer x, unit, qkv, attended, gates, logits, scores, mixed, sums, chances, own;
    std::vector<Pair> pairs;
    std::vector<Token> batch;

    float* cache_of(Int place) { return &own[place * cache_size(room)]; }

    Cache at(float* base, Int tokens, Int seen) const {
        return {base, base + j.n_layers * j.n_kv_heads * tokens * D, tokens, seen};
    }

    // Put the keys and values of a prompt's first tokens, as far as they are known, into its cache.
    Int recall(Int p, Int most, float* cache) const {
        Int t = 0, from = j.prompt_starts[p];
        for (; j.known && t < most && j.known[from + t]; t++)
            for (Int l = 0; l < j.n_layers; l++)
                put(at(cache, prompt_room, t + 1), l, j.known[from + t] + l * kept);
        return t;
    }

    // What follows from the logits z behind token t of prompt p.
    void has_read(Int p, Int t, const Cache& cache, const float* z, float* last) const {
        Int place = j.prompt_starts[p] + t, n = j.prompt_starts[p + 1] - j.prompt_starts[p];
        if (j.fresh) take(cache, t, j.fresh, place);
        if (t == n - 1) {
            std::copy_n(z, V, last + p * V);
            if (j.values) j.values[p] = z[j.vocab_size];
        } else if (j.likelihoods) {
            double total = 0, top = *std::max_element(z, z + j.vocab_size);
            for (Int i = 0; i < j.vocab_size; i++) total += std::exp(z[i] - top);
            j.likelihoods[place + 1] = z[j.prompt_tokens[place + 1]] - top - std::log(total);
        }
    }

    // Keys and values of a layer, as `known` has them, into a cache as those of its last token.
    void put(const Cache& c, Int l, const float* k) const {
        Int place = c.seen - 1;
        const float* v = k + j.n_kv_heads * D;
        for (Int h = 0; h < j.n_kv_heads; h++, k += D, v += D) {
            Int block = (l * j.n_kv_heads + h) * c.room;
            float* to = c.k + block * D + place / PANEL * PANEL * D + place % PANEL;
            for (Int i = 0; i < D; i++) to[i * PANEL] = k[i];
            to = c.v + block * DP + place * PANEL;
            for (Int i = 0; i < D; i += PANEL)
                std::copy_n(v + i, std::min<Int>(PANEL, D - i), to + i * c.room);
        }
    }

    // The inverse for all layers of token t of a cache, to a place of an array of tokens.
    void take(const Cache& c, Int t, float* array, Int place) const {
        float* k = array + place * j.n_layers * kept;
        for (Int l = 0; l < j.n_layers; l++, k += j.n_kv_heads * D)
            for (Int h = 0; h < j.n_kv_heads; h++, k += D) {
                Int block = (l * j.n_kv_heads + h) * c.room;
                const float* from = c.k + block * D + t / PANEL * PANEL * D + t % PANEL;
                for (Int i = 0; i < D; i++) k[i] = from[i * PANEL];
                from = c.v + block * DP + t * PANEL;
                for (Int i = 0; i < D; i++)
                    k[j.n_kv_heads * D + i] = from[i / PANEL * PANEL * c.room + i % PANEL];
            }
    }

    // The tokens that a cache has seen, in all layers, into an equally large one.
    void copy(const Cache& from, const Cache& to) const {
        for (Int block = 0; block < j.n_layers * j.n_kv_heads; block++) {
            const float *k = from.k + block * from.room * D, *v = from.v + block * from.room * DP;
            std::copy_n(k, round_up(from.seen, PANEL) * D, to.k + (k - from.k));
            for (Int i = 0; i < DP; i += PANEL, v += PANEL * from.room)
                std::copy_n(v, from.seen * PANEL, to.v + (v - from.v));
        }
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
            for (Int b = 0; b < n; b++) rotate(l, b);
            over_prompts(l, false);
            for (Int b = 0; b < n; b++) attend(l, b);
            over_prompts(l, true);
            for (Int i = 0; i < n * j.n_heads; i++)
                for (Int d = 0; d < D; d++) attended[i * D + d] = mixed[i * DP + d] / sums[i];
            product(attended.get(), j.n_heads * D, layer.out, j.n_heads * D, x.get(), width, true);
            product(normed(), width, layer.gate_up, j.d_model, gates.get(), 2 * ff);
            for (Int b = 0; b < n; b++) swiglu(&gates[b * 2 * ff]);
            product(gates.get(), 2 * ff, layer.down, j.d_ff, x.get(), width, true);
        }
        product(normed(), width, j.unembedding, j.d_model, logits.get(), V);
    }

    // y (n, ldy) = the batch's rows times a weight matrix of ldy columns
    void product(const float* from, Int ldx, const void* matrix, Int k, float* y, Int ldy,
                 bool add = false) {
        Int n = batch.size(), half = (k + 1) / 2;
        if (j.bf16) {
            for (Int b = 0; b < n; b++) to_pairs(from + b * ldx, k, &pairs[b * half]);
            multiply<Pair>({pairs.data(), half}, n,
                           {static_cast<const Pair*>(matrix), PANEL, half * PANEL}, half, ldy, y,
                           ldy, add);
        } else {
            multiply({from, ldx}, n, {static_cast<const float*>(matrix), PANEL, k * PANEL}, k, ldy,
                     y, ldy, add);
        }
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

    // QK-norm and rotation of token b's q and k, in place.
    void rotate(Int l, Int b) {
        Int position = batch[b].prompt.seen + batch[b].own.seen - 1, half = D / 2;
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
    }

    // Scores of the batch's queries over the keys of their prompts, or what these pick of the values,
    // on top of `mixed`. Neighbours that share a prompt are one product per query head, a token
    // without such a neighbour one per KV head.
    void over_prompts(Int l, bool values) {
        for (Int b = 0, to, n = batch.size(); b < n; b = to) {
            const Cache& c = batch[b].prompt;
            for (to = b + 1; to < n && batch[to].prompt.k == c.k;) to++;
            bool many = to - b > 1;
            Int rows = many ? to - b : group, apart = many ? j.n_heads : 1;
            for (Int head = 0; head < (c.seen ? j.n_heads : 0); head += many ? 1 : group) {
                Int block = (l * j.n_kv_heads + head / group) * c.room, at = b * j.n_heads + head;
                if (values)
                    multiply({&scores[at * span], apart * span}, rows,
                             {c.v + block * DP, PANEL, c.room * PANEL}, c.seen, D, &mixed[at * DP],
                             apart * DP, true);
                else
                    multiply({&qkv[b * wide + head * D], many ? wide : D}, rows,
                             {c.k + block * D, PANEL, D * PANEL}, D, c.seen, &scores[at * span],
                             apart * span);
            }
        }
    }

    // Token b's k and v into its own cache, which its query heads then read; softmax over both caches.
    void attend(Int l, Int b) {
        const Cache& c = batch[b].own;
        Int prompt = batch[b].prompt.seen, begin = round_up(prompt, W);
        Int n = begin + round_up(c.seen, W);
        put(c, l, &qkv[b * wide + j.n_heads * D]);
        for (Int h = 0; h < j.n_kv_heads; h++) {
            Int block = (l * j.n_kv_heads + h) * c.room, at = b * j.n_heads + h * group;
            float* s = &scores[at * span];
            multiply({&qkv[b * wide + h * group * D], D}, group,
                     {c.k + block * D, PANEL, D * PANEL}, D, c.seen, s + begin, span);
            for (Int g = 0; g < group; g++) {               // LOWEST behind the last key
                std::fill(s + g * span + prompt, s + g * span + begin, LOWEST);
                std::fill(s + g * span + begin + c.seen, s + g * span + n, LOWEST);
                sums[at + g] = softmax(s + g * span, n);
            }
            multiply({s + begin, span}, group, {c.v + block * DP, PANEL, c.room * PANEL}, c.seen,
                     D, &mixed[at * DP], DP);
        }
    }

    // What goes on at a place: its deepest path, else a path that waits elsewhere, whose cache is
    // copied, else rows of a new prompt. A deeper path overwrites nothing that those before it share.
    Path* next_path(std::atomic<Int>& next, const float* first,
                    std::vector<std::vector<Path>>& waiting, Int place) {
        std::vector<Path>& mine = waiting[place];
        for (Int s = 0; s < j.block && mine.empty(); s++) {
            if (waiting[s].size() < 1 + size_t(s > place)) continue;      // its own next one is its
            mine.push_back(std::move(waiting[s].front()));
            waiting[s].erase(waiting[s].begin());
            copy(at(cache_of(s), room, mine[0].t - 1), at(cache_of(place), room, 0));
        }
        while (mine.empty()) {
            Int from = next, to = from;
            do {
                to = from;
                while (to < j.rows && j.source[to] == j.source[from]
                       && (to - from) * j.threads < j.rows) to++;
            } while (from < j.rows && !next.compare_exchange_weak(from, to));
            if (from >= j.rows) break;
            Path path{0, 0, std::vector<Int>(to - from)};
            std::iota(path.rows.begin(), path.rows.end(), from);
            std::copy_n(first + j.source[from] * V, V, logits.get());
            draw(path, logits.get(), at(cache_of(place), room, 0), mine);
        }
        return mine.empty() ? nullptr : &mine.back();
    }

    // Draw the next token of every row of a path from z (V,), as draw_tokens does, or follow the rows
    // that are given. What goes on from here waits, a path for each token.
    void draw(const Path& path, float* z, const Cache& cache, std::vector<Path>& waiting) {
        Int n = j.vocab_size, best = std::max_element(z, z + n) - z, t = path.t;
        size_t before = waiting.size();
        float top = 0;
        double total = 0;
        if (j.temperature > 0) {
            top = z[best] / float(j.temperature);
            for (Int i = 0; i < n; i++) z[i] /= float(j.temperature);
            truncate(z);
            for (Int i = 0; i < V; i += W) store(&chances[i], exp_of(load(z + i) - top));
            for (Int i = 0; i < n; i++) total += z[i] == LOWEST ? chances[i] = 0 : chances[i];
        }
        std::vector<Int> ended;
        for (Int row : path.rows) {
            Int place = row * j.max_new + t, token = j.row_values ? j.tokens[place] : best;
            j.logprobs[place] = 0;
            if (j.row_values) {
                j.row_values[place] = z[n];
                j.logprobs[place] = z[token] - top - float(std::log(total));
            } else if (j.temperature > 0) {
                double below = 0;
                for (token = 0; token < n - 1; token++)
                    if ((below += chances[token]) > j.uniform[place] * total) break;
                j.logprobs[place] = z[token] - top - float(std::log(total));
            }
            j.tokens[place] = token;
            j.lengths[row] = t + 1;
            const Int* end = j.row_values ? j.ends : j.ends + j.n_ends;
            if (t + 1 == j.limits[row] || std::find(j.ends, end, token) != end) {
                if (j.drawn && std::find(ended.begin(), ended.end(), token) == ended.end()) {
                    for (Int i = 0; i < t; i++) take(cache, i, j.drawn, row * j.max_new + i);
                    ended.push_back(token);             // equal rows behind it are not read from
                }
                continue;
            }
            auto same = std::find_if(waiting.begin() + before, waiting.end(),
                                     [token](const Path& p) { return p.token == token; });
            if (same == waiting.end()) waiting.push_back({t + 1, token, {row}});
            else same->rows.push_back(row);
        }
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
    double D = j.head_dim + PANEL, V = j.vocab_size + 2 * PANEL, rows = double(j.threads) * j.block;
    double tokens = j.longest + j.max_new + 2.0 * PANEL, heads = j.n_heads + 2.0 * j.n_kv_heads;
    double cache = 2 * D * tokens * j.n_layers * j.n_kv_heads;
    return rows * (3 * j.d_model + heads * (4 * D + tokens) + 3 * j.d_ff + V + 9 * PANEL + cache)
        + j.threads * V + j.prompts * (cache + V);
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
    if (!within(j.bf16, 0, 2) || j.n_heads % j.n_kv_heads || j.head_dim % 2) return false;
    if (j.prompt_starts[0] != 0) return false;
    bool reads = j.values != nullptr;                       // and draws nothing
    if (j.value_columns != (reads || j.row_values) || j.longest + !reads > j.max_len) return false;
    if (j.threads > j.rows || j.block > std::max(j.rows, j.prompt_starts[j.prompts])) return false;
    for (Int p = 0; p < j.prompts; p++) {
        Int from = j.prompt_starts[p], to = j.prompt_starts[p + 1];
        if (!within(to, from + 1, from + j.longest + 1)) return false;
        for (Int i = from; i < to; i++)
            if (!within(j.prompt_tokens[i], 0, j.vocab_size)) return false;
    }
    for (Int r = 0; r < j.rows && !reads; r++) {
        Int p = j.source[r];
        if (!within(p, 0, j.prompts) || !within(j.limits[r], 1, j.max_new + 1)) return false;
        if (j.prompt_starts[p + 1] - j.prompt_starts[p] + j.limits[r] > j.max_len) return false;
        for (Int t = 0; j.row_values && t < j.limits[r]; t++)
            if (!within(j.tokens[r * j.max_new + t], 0, j.vocab_size)) return false;
    }
    return true;
}

extern "C" {
__attribute__((visibility("default"))) int panel_width() { return PANEL; }

// Read all prompts of a job, then decode all its rows unless values are asked for; returns 0, 1
// where there is not enough memory, 2 for an unsound job.
__attribute__((visibility("default"))) int decode_rows(const Job* job) try {
    if (job == nullptr || !sound(*job)) return 2;
    if (numbers(*job) > 1e14) return 1;
    std::vector<Worker> workers;
    for (Int i = 0; i < job->threads; i++) workers.emplace_back(*job);
    Int size = workers[0].cache_size(round_up(job->longest, PANEL));
    Int columns = round_up(job->vocab_size + job->value_columns, PANEL);
    Buffer caches = buffer(job->prompts * size), first = buffer(job->prompts * columns);
    std::atomic<Int> prompt{0}, row{0};
    in_threads(workers, [&](Worker& w) { w.prefill(prompt, caches.get(), first.get()); });
    if (job->values == nullptr)
        in_threads(workers, [&](Worker& w) { w.decode(row, caches.get(), first.get()); });
    return 0;
} catch (const std::bad_alloc&) {
    return 1;
}
}
