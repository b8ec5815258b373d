// `manifest.json`, as far as this sample reads it; the whole of it is described in edgeqkv/bundle/manifest.py.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace edgeqkv {

/// A bundle, a prompt or a setting that cannot be used: what is wrong, with which value, and what to do about it.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The type of a tensor's numbers.
enum class Dtype { fp32, fp16, int8, uint8, int32, int64, boolean };

/// Bytes of one number.
std::size_t size_of(Dtype dtype);

/// What an input is filled with, or what an output holds. Graphs are called by this, never by names.
enum class Role { tokens, positions, start, length, logit_index, mask, pixels, features, image, logits, state };

/// Who writes new rows to a state tensor: the graph where it lies, the caller who gets them alone, or the runtime.
enum class StateUpdate { in_place, rows, runtime };

using Shape = std::vector<std::int64_t>;

/// One size of a shape: a number, or the name of what varies from call to call.
using Size = std::variant<std::int64_t, std::string>;

/// An input or output of a graph.
struct TensorSpec {
  std::string name;
  Dtype dtype;
  std::vector<Size> shape;
  Role role;
};

/// One thing that can be called: a file, or a method in one, that takes up to `tokens` tokens (exactly, if `fixed`) and
/// reads `window` positions of the state (none: all).
struct Graph {
  std::string name;
  std::string file;
  std::int64_t tokens;
  bool fixed;
  std::optional<std::int64_t> window;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;

  /// The output that everybody wants.
  const TensorSpec& logits() const;
  bool has(Role role) const;
};

/// One tensor of the KV state (the KV cache). `aliases` are further outputs that hold the same.
struct StateTensor {
  std::string name;
  Dtype dtype;
  Shape shape;
  StateUpdate update;
  std::optional<std::string> input;
  std::optional<std::string> output;
  std::vector<std::string> aliases;

  std::size_t bytes() const;
};

/// One target's export of a language model.
struct Artifact {
  std::string target;
  std::string form;
  std::string weights;
  std::int64_t context;
  std::int64_t chunk;
  std::int64_t vocabulary;
  std::vector<std::string> axes;
  std::vector<Graph> graphs;
  std::vector<StateTensor> state_tensors;

  static Artifact from(const nlohmann::json& card);
};

/// How many numbers a tensor of this shape has.
std::size_t count(const Shape& shape);

/// The folder that `edgeqkv export` wrote, read through its `manifest.json`.
class Bundle {
 public:
  /// Throws `Error`: there is none, or it is of another format, damaged, or of a model that continues no text.
  explicit Bundle(std::filesystem::path folder);

  /// Compare every file with its checksum: what was copied is what was exported.
  void check() const;

  /// The named target's export; the first one if none is named.
  const Artifact& target(std::string_view name) const;

  std::filesystem::path folder;
  /// The SHA-256 of the manifest: what a device report calls this bundle.
  std::string sha256;
  std::string variant;
  std::map<std::string, Artifact, std::less<>> targets;
  std::set<std::int64_t> eos_token_ids;

 private:
  struct FileCard {
    std::uintmax_t bytes;
    std::string sha256;
  };
  std::map<std::string, FileCard> files_;
};

}  // namespace edgeqkv
