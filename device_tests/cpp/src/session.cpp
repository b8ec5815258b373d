#include "session.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <tuple>

namespace edgeqkv {
namespace {

/// What added to a score hides it; masks of integers say only which positions are filled.
std::optional<double> lowest(Dtype dtype) {
  if (dtype == Dtype::fp32) return std::numeric_limits<float>::lowest();
  if (dtype == Dtype::fp16) return -65504.0;
  return std::nullopt;
}

template <typename Number>
std::vector<std::byte> as(const std::vector<double>& values) {
  std::vector<std::byte> bytes(values.size() * sizeof(Number));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto number = static_cast<Number>(values[i]);
    std::memcpy(bytes.data() + i * sizeof(Number), &number, sizeof(Number));
  }
  return bytes;
}

double value(const Call& call, const TensorSpec& spec, const Shape& shape, std::int64_t index) {
  const auto count = static_cast<std::int64_t>(call.ids.size());
  switch (spec.role) {
    case Role::tokens: return index < count ? static_cast<double>(call.ids[index]) : 0;
    case Role::positions: return static_cast<double>(call.position + index);
    case Role::start: return static_cast<double>(call.position);
    case Role::logit_index: return static_cast<double>(count - 1);
    case Role::length:  // a named size says it all by itself
      return std::holds_alternative<std::string>(spec.shape.back()) ? 0 : static_cast<double>(call.position + count);
    case Role::mask: {
      const auto hidden = lowest(spec.dtype);
      if (!hidden) return 1;
      const std::int64_t columns = shape.back();
      return index % columns <= call.position + index / columns ? 0 : *hidden;
    }
    default: throw Error("the input '" + spec.name + "' is of a role that no decoder has");
  }
}

}  // namespace

std::vector<std::byte> Input::bytes() const {
  switch (spec->dtype) {
    case Dtype::int64: return as<std::int64_t>(values);
    case Dtype::int32: return as<std::int32_t>(values);
    case Dtype::fp32: return as<float>(values);
    default: throw Error("the input '" + spec->name + "' is of a type that this program cannot give");
  }
}

std::int64_t Call::tokens() const { return graph.fixed ? graph.tokens : static_cast<std::int64_t>(ids.size()); }

Shape Call::shape(const TensorSpec& spec) const {
  const std::int64_t end = position + static_cast<std::int64_t>(ids.size());
  const std::map<std::string, std::int64_t> sizes{{"tokens", tokens()}, {"end", end}, {"end + 1", end + 1}};
  Shape shape;
  for (const Size& size : spec.shape) {
    if (const auto* number = std::get_if<std::int64_t>(&size)) {
      shape.push_back(*number);
      continue;
    }
    const auto& name = std::get<std::string>(size);
    const auto found = sizes.find(name);
    if (found == sizes.end()) throw Error("'" + spec.name + "' is of an unknown size, " + name);
    shape.push_back(found->second);
  }
  return shape;
}

std::vector<Input> Call::inputs() const {
  std::vector<Input> filled;
  for (const TensorSpec& spec : graph.inputs) {
    if (spec.role == Role::state) continue;
    Input input{.spec = &spec, .shape = shape(spec), .values = {}};
    const auto size = static_cast<std::int64_t>(count(input.shape));
    for (std::int64_t index = 0; index < size; ++index) input.values.push_back(value(*this, spec, input.shape, index));
    filled.push_back(std::move(input));
  }
  return filled;
}

namespace {

/// Of the graphs that take `count` tokens at `position` and are of use, the smallest with the smallest window.
template <typename OfUse>
const Graph* smallest(const Artifact& artifact, std::int64_t count, std::int64_t position, OfUse of_use) {
  const Graph* best = nullptr;
  const auto order = [](const Graph& graph) { return std::tuple(graph.tokens, graph.window.value_or(0)); };
  for (const Graph& graph : artifact.graphs) {
    const bool takes = graph.tokens >= count &&
                       (!graph.fixed || position + graph.tokens <= graph.window.value_or(artifact.context));
    if (takes && of_use(graph) && (best == nullptr || order(graph) < order(*best))) best = &graph;
  }
  return best;
}

/// Tokens of a filled-up graph for each that is wanted: reading the weights once is most of what any call takes.
constexpr std::int64_t worth = 16;

}  // namespace

const Graph* graph_for(const Artifact& artifact, std::int64_t count, std::int64_t position) {
  return smallest(artifact, count, position, [count](const Graph& graph) {
    return !graph.fixed || graph.tokens == count || graph.has(Role::logit_index);
  });
}

const Graph* graph_for_all_but_logits(const Artifact& artifact, std::int64_t count, std::int64_t position) {
  return smallest(artifact, count, position, [count](const Graph& graph) { return graph.tokens <= count * worth; });
}

void write_rows(const Artifact& artifact, const StateTensor& tensor, std::span<const std::byte> rows,
                std::span<std::byte> state, const Call& call) {
  const auto axis = std::ranges::find(artifact.axes, "context") - artifact.axes.begin();
  const Shape before(tensor.shape.begin(), tensor.shape.begin() + axis);
  const Shape after(tensor.shape.begin() + axis + 1, tensor.shape.end());
  const std::size_t row = count(after) * size_of(tensor.dtype);
  for (std::size_t block = 0; block < count(before); ++block) {
    const auto from = rows.subspan(block * static_cast<std::size_t>(call.tokens()) * row, call.ids.size() * row);
    const std::size_t to = block * static_cast<std::size_t>(tensor.shape[axis]) + static_cast<std::size_t>(call.position);
    std::ranges::copy(from, state.subspan(to * row).begin());
  }
}

Session::Session(std::unique_ptr<Runner> runner, const Artifact& artifact)
    : runner_(std::move(runner)), artifact_(artifact) {}

std::vector<float> Session::feed(std::span<const std::int64_t> ids) {
  if (ids.empty()) throw Error("there is nothing to feed; give one or more tokens");
  for (const std::int64_t id : ids) {
    if (id >= 0 && id < artifact_.vocabulary) continue;
    throw Error("token " + std::to_string(id) + " is not in this model's vocabulary, 0 to " +
                std::to_string(artifact_.vocabulary - 1));
  }
  if (position_ + static_cast<std::int64_t>(ids.size()) > context()) {
    throw ContextFull(std::to_string(ids.size()) + " more tokens do not fit: " + std::to_string(position_) + " of " +
                      std::to_string(context()) + " positions are taken");
  }
  std::vector<float> logits;
  for (const auto chunk = static_cast<std::size_t>(artifact_.chunk); !ids.empty();) {
    const auto piece = ids.first(std::min(chunk, ids.size()));
    logits = step(piece);
    ids = ids.subspan(piece.size());
  }
  return logits;
}

std::vector<float> Session::step(std::span<const std::int64_t> ids) {
  // Graphs of windows that are full cannot be called again before a reset, and may hold weights of their own.
  for (const Graph& graph : artifact_.graphs) {
    if (graph.window && *graph.window <= position_) runner_->close(graph);
  }
  const Graph* graph = graph_for(artifact_, static_cast<std::int64_t>(ids.size()), position_);
  if (graph == nullptr && ids.size() == 1) {
    throw Error("no graph of this export takes a token at position " + std::to_string(position_) + ". Export it again");
  }
  std::vector<float> logits;
  if (graph == nullptr) {
    const auto before = ids.first(ids.size() - 1);
    if (const Graph* all = graph_for_all_but_logits(artifact_, std::ssize(before), position_)) {
      runner_->run({.graph = *all, .ids = before, .position = position_});
      position_ += std::ssize(before);
      return step(ids.last(1));
    }
    for (; !ids.empty(); ids = ids.subspan(1)) logits = step(ids.first(1));
    return logits;
  }
  logits = runner_->run({.graph = *graph, .ids = ids, .position = position_});
  position_ += static_cast<std::int64_t>(ids.size());
  const auto vocabulary = static_cast<std::ptrdiff_t>(artifact_.vocabulary);
  if (std::ssize(logits) == vocabulary) return logits;
  const auto last = logits.begin() + (std::ssize(ids) - 1) * vocabulary;
  return {last, last + vocabulary};
}

}  // namespace edgeqkv
