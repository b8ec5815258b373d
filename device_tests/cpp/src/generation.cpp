#include "generation.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

namespace edgeqkv {
namespace {

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

std::int64_t Sampling::pick(std::span<const float> logits, double uniform) const {
  if (temperature == 0) return std::ranges::max_element(logits) - logits.begin();
  std::vector<std::int64_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater<>(), [&](std::int64_t token) { return logits[token]; });
  if (top_k > 0 && top_k < order.size()) order.resize(top_k);
  std::vector<double> weights;
  for (const std::int64_t token : order) {
    weights.push_back(std::exp((static_cast<double>(logits[token]) - logits[order[0]]) / temperature));
  }
  // The most likely tokens up to and including the one that reaches top_p.
  const double reach = top_p * std::accumulate(weights.begin(), weights.end(), 0.0);
  double mass = 0;
  std::size_t kept = 0;
  while (kept < weights.size() && mass < reach) mass += weights[kept++];
  double left = uniform * mass;
  for (std::size_t place = 0; place + 1 < kept; ++place) {
    left -= weights[place];
    if (left < 0) return order[place];
  }
  return order[kept - 1];
}

Outcome generate(Session& session, std::span<const std::int64_t> prompt, const Options& options,
                 const std::function<void(std::int64_t, std::span<const float>)>& on_token) {
  const Stopwatch prefilling;
  std::vector<float> logits = session.feed(prompt);
  const Run prefill{.tokens = prompt.size(), .seconds = prefilling.seconds()};
  std::mt19937_64 numbers(options.seed);
  std::uniform_real_distribution<double> uniform;
  const Stopwatch decoding;
  std::size_t decoded = 0;
  const auto ended = [&](StopReason reason) {
    return Outcome{.prefill = prefill, .decode = {.tokens = decoded, .seconds = decoding.seconds()}, .stopped = reason};
  };
  std::optional<std::int64_t> last;
  for (std::size_t generated = 0;; ++generated) {
    if (generated == options.max_tokens) return ended(StopReason::max_tokens);
    if (last) {
      if (session.position() >= session.context()) return ended(StopReason::context_full);
      logits = session.feed({&*last, 1});
      ++decoded;
    }
    const std::int64_t token = options.sampling.pick(logits, uniform(numbers));
    if (options.eos_token_ids.contains(token)) return ended(StopReason::end_of_text);
    on_token(token, logits);
    last = token;
  }
}

}  // namespace edgeqkv
