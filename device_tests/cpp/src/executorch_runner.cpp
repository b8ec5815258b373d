#include "executorch_runner.hpp"

#include <executorch/extension/tensor/tensor.h>

namespace edgeqkv {
namespace {

using executorch::aten::ScalarType;

ScalarType element(Dtype dtype) {
  switch (dtype) {
    case Dtype::int64: return ScalarType::Long;
    case Dtype::int32: return ScalarType::Int;
    case Dtype::fp32: return ScalarType::Float;
    default: throw Error("an input of a type that this program cannot give");
  }
}

}  // namespace

ExecuTorchRunner::ExecuTorchRunner(const std::filesystem::path& folder, const Artifact& artifact)
    // Methods that share a state find it at one place in memory only if they share that.
    : module_((folder / artifact.graphs.front().file).string(), executorch::extension::Module::LoadMode::Mmap, nullptr,
              nullptr, nullptr, /*share_memory_arenas=*/artifact.graphs.size() > 1) {
  for (const Graph& graph : artifact.graphs) {
    if (const auto error = module_.load_method(graph.name); error != executorch::runtime::Error::Ok) {
      throw Error("ExecuTorch cannot load '" + graph.name + "' of " + graph.file + ": " +
                  executorch::runtime::to_string(error) +
                  ". This program has the operators of the form portable; export with --form portable");
    }
  }
}

std::vector<float> ExecuTorchRunner::run(const Call& call) {
  std::vector<std::vector<std::byte>> memory;  // has to live until the call has returned
  std::vector<executorch::extension::TensorPtr> tensors;
  std::vector<executorch::runtime::EValue> given;
  for (const Input& input : call.inputs()) {
    memory.push_back(input.bytes());
    const std::vector<executorch::aten::SizesType> sizes(input.shape.begin(), input.shape.end());
    tensors.push_back(executorch::extension::from_blob(memory.back().data(), sizes, element(input.spec->dtype)));
    given.emplace_back(*tensors.back());
  }
  const auto outputs = module_.execute(call.graph.name, given);
  if (!outputs.ok()) {
    throw Error("ExecuTorch cannot run '" + call.graph.name + "': " + executorch::runtime::to_string(outputs.error()));
  }
  for (std::size_t index = 0; index < call.graph.outputs.size(); ++index) {
    if (call.graph.outputs[index].role != Role::logits) continue;
    const auto& logits = outputs->at(index).toTensor();
    if (logits.scalar_type() != ScalarType::Float) throw Error("this program knows no logits of another type than fp32");
    const float* first = logits.const_data_ptr<float>();
    return {first, first + logits.numel()};
  }
  throw Error("the method '" + call.graph.name + "' gives no logits");
}

}  // namespace edgeqkv
