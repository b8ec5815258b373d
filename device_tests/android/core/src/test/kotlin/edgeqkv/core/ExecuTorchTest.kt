package edgeqkv.core

import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith

class ExecuTorchTest {
    /** As the runner writes it, with a GPU's fields left out. */
    private val stats = """{"prefill_token_per_sec":1200,"decode_token_per_sec":40,"prompt_tokens":480,""" +
        """"generated_tokens":32,"model_load_start_ms":100,"model_load_end_ms":350,"inference_start_ms":1000,""" +
        """"inference_end_ms":2200,"prompt_eval_end_ms":1400,"first_token_ms":1400,"aggregate_sampling_time_ms":3,""" +
        """"SCALING_FACTOR_UNITS_PER_SECOND":1000}"""

    private fun artifact(context: Int, chunk: Int) =
        Golden.artifact("executorch").copy(context = context, chunk = chunk)

    @Test
    fun itsStatisticsAreRead() =
        assertEquals(Outcome(Run(480, 0.4), Run(32, 0.8), stopped = null), executorchOutcome(stats))

    @Test
    fun withAShorterChunkItsLimitIsOfTheNewTokens() {
        val artifact = artifact(context = 512, chunk = 128)
        assertEquals(20, executorchLength(artifact, promptTokens = 100, maxTokens = 20))
        assertEquals(413, executorchLength(artifact, promptTokens = 100, maxTokens = null))
        assertEquals(2, executorchLength(artifact, promptTokens = 511, maxTokens = 20))
        assertFailsWith<ContextFull> { executorchLength(artifact, promptTokens = 512, maxTokens = 20) }
    }

    @Test
    fun withAChunkOfTheWholeContextItIsOfAll() {
        val artifact = artifact(context = 512, chunk = 512)
        assertEquals(120, executorchLength(artifact, promptTokens = 100, maxTokens = 20))
        assertEquals(512, executorchLength(artifact, promptTokens = 100, maxTokens = null))
    }
}
