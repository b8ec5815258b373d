#pragma once

#include <executorch/extension/module/module.h>

#include "session.hpp"

namespace edgeqkv {

/// A `.pte` in ExecuTorch's runtime, which holds the state in memory that it plans from the file.
class ExecuTorchRunner final : public Runner {
 public:
  /// Throws `Error`: the file is missing or damaged, or needs operators that this program is not linked with.
  ExecuTorchRunner(const std::filesystem::path& folder, const Artifact& artifact);

  std::vector<float> run(const Call& call) override;

 private:
  executorch::extension::Module module_;
};

}  // namespace edgeqkv
