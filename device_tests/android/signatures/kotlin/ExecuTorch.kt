// Signatures that the app uses. Checked against LlmModule.kt, LlmCallback.kt and LlmGenerationConfig.kt of ExecuTorch
// 1.4.1, extension/android/executorch_android/src/main/java/org/pytorch/executorch/extension/llm in
// https://github.com/pytorch/executorch
package org.pytorch.executorch.extension.llm

import java.io.Closeable

class LlmModule(modulePath: String, tokenizerPath: String, temperature: Float) : Closeable {
    external fun load()

    external fun generate(prompt: String, config: LlmGenerationConfig, llmCallback: LlmCallback)

    external fun resetContext()

    external fun stop()

    external override fun close()
}

interface LlmCallback {
    fun onResult(result: String)

    fun onStats(stats: String) {}

    fun onError(errorCode: Int, message: String) {}
}

class LlmGenerationConfig private constructor() {
    companion object {
        @JvmStatic
        external fun create(): Builder
    }

    class Builder internal constructor() {
        external fun echo(echo: Boolean): Builder

        external fun seqLen(seqLen: Int): Builder

        external fun temperature(temperature: Float): Builder

        external fun build(): LlmGenerationConfig
    }
}
