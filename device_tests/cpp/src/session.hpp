// Feeding tokens to a decoder, whatever runs it: the same as in edgeqkv/run/session.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "manifest.hpp"

namespace edgeqkv {

/// An input that is filled: its numbers in the order of memory, which `bytes` turns into the input's own type.
struct Input {
  const TensorSpec* spec;
  Shape shape;
  std::vector<double> values;

  /// Throws `Error`: inputs of this type are not known.
  std::vector<std::byte> bytes() const;
};

/// One call of a graph, with tokens `ids`, which stand at `position` and after it.
struct Call {
  const Graph& graph;
  std::span<const std::int64_t> ids;
  std::int64_t position;

  /// Tokens that the graph takes; of a fixed one, those behind the last of `ids` only fill it up.
  std::int64_t tokens() const;
  /// The shape that an input or output has in this call.
  Shape shape(const TensorSpec& spec) const;
  /// Every input but the state.
  std::vector<Input> inputs() const;
};

/// The graph for `count` tokens at `position`: of those that take so many there, the smallest with the smallest window.
/// Null: there is none, and they go one by one.
///
/// A fixed graph that says which token's logits it gives is filled up. What fills it up stands after the last token:
/// nothing attends to it there, and the tokens that come to stand there overwrite it.
const Graph* graph_for(const Artifact& artifact, std::int64_t count, std::int64_t position);

/// The graph that takes these tokens, filled up, whatever logits it gives. Null: not worth its call.
const Graph* graph_for_all_but_logits(const Artifact& artifact, std::int64_t count, std::int64_t position);

/// Write a call's new `rows` of a state tensor, which came from the graph alone, to where they belong in `state`.
void write_rows(const Artifact& artifact, const StateTensor& tensor, std::span<const std::byte> rows,
                std::span<std::byte> state, const Call& call);

/// What calls an export's graphs. It keeps the KV state, whoever of graph, runtime and itself writes to it.
class Runner {
 public:
  virtual ~Runner() = default;
  /// The logits of a call: of the token that the graph was asked for, or of every token, one after another.
  virtual std::vector<float> run(const Call& call) = 0;
  /// Give back what a graph takes; it is opened anew if it is called again.
  virtual void close(const Graph&) {}
};

/// The context is full; nothing was fed.
class ContextFull : public Error {
 public:
  using Error::Error;
};

/// A decoder with its place in the context: checks what is fed, and feeds it in chunks to the graphs that take them.
class Session {
 public:
  /// `artifact` has to outlive it.
  Session(std::unique_ptr<Runner> runner, const Artifact& artifact);

  /// Append tokens; the logits after the last one.
  std::vector<float> feed(std::span<const std::int64_t> ids);
  /// Forget everything that was fed. Rows of the state are overwritten before they are read again.
  void reset() { position_ = 0; }
  /// Tokens fed since the start or the last `reset`.
  std::int64_t position() const { return position_; }
  std::int64_t context() const { return artifact_.context; }

 private:
  std::vector<float> step(std::span<const std::int64_t> ids);

  std::unique_ptr<Runner> runner_;
  const Artifact& artifact_;
  std::int64_t position_ = 0;
};

}  // namespace edgeqkv
