// Sampling and stop rules: the same as in edgeqkv/run/generate.py.
#pragma once

#include <functional>
#include <optional>
#include <random>
#include <set>
#include <span>

#include "session.hpp"

namespace edgeqkv {

/// How the next token is drawn.
struct Sampling {
  /// 0 takes the most likely token; 1 draws from the model's own distribution.
  double temperature = 0;
  /// Draw among this many of the most likely tokens; 0: among all.
  std::size_t top_k = 0;
  /// Draw among the most likely tokens that together have this probability; 1: among all.
  double top_p = 1;

  /// The token that `uniform`, a random number of [0, 1), picks from the logits.
  std::int64_t pick(std::span<const float> logits, double uniform) const;
};

enum class StopReason { end_of_text, max_tokens, context_full };

/// Tokens fed, and how long that took.
struct Run {
  std::size_t tokens = 0;
  double seconds = 0;
};

/// What a generation did: the prompt's run, the run of the tokens after it, and why it ended.
struct Outcome {
  Run prefill;
  Run decode;
  StopReason stopped;
};

struct Options {
  /// Tokens to generate at most; none: until the context is full.
  std::optional<std::size_t> max_tokens;
  Sampling sampling;
  std::set<std::int64_t> eos_token_ids;
  unsigned seed = 0;
};

/// Continue a prompt, telling each token as it is chosen, with the logits that it was chosen from.
Outcome generate(Session& session, std::span<const std::int64_t> prompt, const Options& options,
                 const std::function<void(std::int64_t, std::span<const float>)>& on_token);

}  // namespace edgeqkv
