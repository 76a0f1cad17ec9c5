// Runs a student's launcher on the cases of one check; included after the student's file.
//
//     program CASES RESULTS SCHEDULE...        a schedule is two words, like up late
//
// CASES holds per case three int32 (R, T, S) and the scores. RESULTS gets per case and schedule the
// status, two texts (the emulator's, and AddressSanitizer's first report), the eight counts of
// counting.h and the weights.
// Accesses out of bounds are recorded and the run goes on: they cost the check that looks for them.
#pragma once
#include <sanitizer/asan_interface.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

namespace grader {

constexpr size_t FENCE = 64 * 1024;
constexpr uint32_t UNWRITTEN = 0x7fc0dead;      // a NaN that no sum gives
std::string first_report;

void keep_report(const char *text) {
    if (first_report.empty()) first_report = text;
}

// `count` floats with forbidden memory on both sides.
struct Fenced {
    std::vector<unsigned char> bytes;
    size_t count;
    explicit Fenced(size_t count) : bytes(2 * FENCE + 4 * count), count(count) {
        std::fill_n(data(), count, bits_float(UNWRITTEN));
        ASAN_POISON_MEMORY_REGION(bytes.data(), FENCE);
        ASAN_POISON_MEMORY_REGION(bytes.data() + FENCE + 4 * count, FENCE);
    }
    ~Fenced() { ASAN_UNPOISON_MEMORY_REGION(bytes.data(), bytes.size()); }
    float *data() { return reinterpret_cast<float *>(bytes.data() + FENCE); }
};

void write_text(const std::string &text, std::FILE *to) {
    int32_t length = int32_t(text.size());
    std::fwrite(&length, 4, 1, to);
    std::fwrite(text.data(), 1, text.size(), to);
}

void run_case(const int32_t (&shape)[3], Fenced &scores, char **schedule, std::FILE *to) {
    setenv("EMULATE_ORDER", schedule[0], 1);
    setenv("EMULATE_COPY", schedule[1], 1);
    Fenced weights(scores.count);
    first_report.clear();
    begin(scores.data(), weights.data(), scores.count, shape[2]);
    int32_t status = causal_softmax(scores.data(), weights.data(), shape[0], shape[1], shape[2],
                                    nullptr);
    close_block();
    scores_begin = nullptr;                         // what the harness reads counts for nobody
    std::fwrite(&status, 4, 1, to);
    write_text(status ? launch_error(status) : "", to);
    write_text(first_report, to);
    std::fwrite(&counts, sizeof counts, 1, to);
    std::fwrite(weights.data(), 4, weights.count, to);
}

// An endless loop must not outlive the grader's process, which has a time limit.
void end_with(pid_t parent) {
    while (getppid() == parent) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    _exit(1);
}

}  // namespace grader

int main(int argc, char **argv) {
    std::thread(grader::end_with, getppid()).detach();
    __asan_set_error_report_callback(grader::keep_report);
    std::FILE *cases = std::fopen(argv[1], "rb"), *results = std::fopen(argv[2], "wb");
    if (!cases || !results) return 2;
    for (int32_t shape[3]; std::fread(shape, 4, 3, cases) == 3;) {
        grader::Fenced scores(size_t(shape[0]) * shape[1] * shape[2]);
        if (std::fread(scores.data(), 4, scores.count, cases) != scores.count) return 2;
        for (int i = 3; i + 1 < argc; i += 2)
            grader::run_case(shape, scores, argv + i, results);
    }
    std::fclose(results);
    _exit(0);
}
