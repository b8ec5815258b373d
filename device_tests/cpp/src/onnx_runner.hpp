#pragma once

#include <map>

#include <onnxruntime_cxx_api.h>

#include "session.hpp"

namespace edgeqkv {

/// An ONNX export in ONNX Runtime; see docs/onnx.md for what its graphs promise.
///
/// Every state tensor is one piece of memory, bound as the input and as every output of every graph, so that the runtime
/// appends to it where it lies and never copies it.
class OnnxRunner final : public Runner {
 public:
  /// `artifact` has to outlive it. `threads`: 0 leaves it to the runtime.
  OnnxRunner(std::filesystem::path folder, const Artifact& artifact, int threads);

  std::vector<float> run(const Call& call) override;
  void close(const Graph& graph) override;

 private:
  struct Opened {
    Ort::Session session;
    Ort::IoBinding binding;
  };

  Opened& opened(const Graph& graph);
  Ort::Value value(std::span<std::byte> memory, Dtype dtype, const Shape& shape) const;

  std::filesystem::path folder_;
  const Artifact& artifact_;
  Ort::Env environment_;
  Ort::MemoryInfo memory_;
  Ort::SessionOptions options_;
  /// By the state tensors' names.
  std::map<std::string, std::vector<std::byte>> state_;
  /// By the graphs' names.
  std::map<std::string, Opened> opened_;
};

}  // namespace edgeqkv
