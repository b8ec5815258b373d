package edgeqkv.core

import java.io.File
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNull

class BundleTest {
    @Test
    fun aBundleIsRead() {
        val bundle = Bundle(Golden.bundle())
        bundle.check()
        val artifact = bundle.target("onnx")
        assertEquals(Golden.bundle.text("sha256"), bundle.sha256)
        assertEquals("q-k=v+gqa2", bundle.variant)
        assertEquals(setOf(0, 3), bundle.eosTokenIds)
        val shape = listOf(1, 2, Golden.context, 4)
        val state = StateTensor(
            "kv", Dtype.FP32, shape, StateUpdate.IN_PLACE, "past_kv", "present_kv", listOf("present_kv_as_values"),
        )
        assertEquals(listOf(state), artifact.stateTensors)
        assertEquals(2L * Golden.context * 4 * 4, artifact.stateBytes)
        val graph = artifact.graphs.single()
        assertEquals(Graph("model", "model.bin", Golden.chunk, false, null, graph.inputs, graph.outputs), graph)
        val ids = TensorSpec("input_ids", Dtype.INT64, listOf(Size.Fixed(1), Size.Named("tokens")), Role.TOKENS)
        assertEquals(ids, graph.inputs.first())
        assertEquals(listOf(Role.LOGITS, Role.STATE, Role.STATE), graph.outputs.map { it.role })
        assertNull(bundle.budget("onnx"))
    }

    @Test
    fun aStateThatTheRuntimeHoldsHasNoNamesInTheGraph() {
        val artifact = Bundle(Golden.bundle()).target("coreml")
        assertEquals(listOf("prefill", "decode"), artifact.graphs.filter { it.fixed }.map { it.name })
        assertNull(artifact.stateTensors.single().input)
        assertEquals(StateUpdate.RUNTIME, artifact.stateTensors.single().update)
        assertEquals(2L * Golden.context * 4 * 2, artifact.stateBytes)
    }

    @Test
    fun anotherFormatIsNamed() {
        for ((format, help) in mapOf(1 to "Export the model again", 3 to "Update this app")) {
            val folder = Golden.bundle { it.replace("\"format\": 2", "\"format\": $format") }
            val error = assertFailsWith<EdgeQkvException> { Bundle(folder) }
            assertContains(error.message!!, "of format $format, and this app reads format 2. $help")
        }
    }

    @Test
    fun anEncoderIsNotOpened() {
        val folder = Golden.bundle { it.replace("\"kind\": \"decoder\"", "\"kind\": \"encoder\"") }
        val error = assertFailsWith<EdgeQkvException> { Bundle(folder) }
        assertContains(error.message!!, "holds an encoder, which continues no text")
    }

    @Test
    fun whatIsMissingIsNamed() {
        val folder = Golden.bundle { it.replace("\"vocab_size\"", "\"vocabulary\"") }
        assertContains(assertFailsWith<EdgeQkvException> { Bundle(folder) }.message!!, "vocab_size")
        assertContains(assertFailsWith<EdgeQkvException> { Bundle(File(folder, "none")) }.message!!, "no manifest.json")
        File(folder, "manifest.json").writeText("{")
        assertContains(assertFailsWith<EdgeQkvException> { Bundle(folder) }.message!!, "is damaged")
        assertContains(
            assertFailsWith<EdgeQkvException> { Bundle(Golden.bundle()).target("executorch") }.message!!,
            "[onnx, coreml], not 'executorch'",
        )
    }

    @Test
    fun aChangedFileIsFound() {
        val bundle = Bundle(Golden.bundle())
        val model = File(bundle.folder, "model.bin")
        model.writeText("the modem")
        assertContains(assertFailsWith<EdgeQkvException> { bundle.check() }.message!!, "'model.bin' is not the file")
        model.delete()
        assertContains(assertFailsWith<EdgeQkvException> { bundle.check() }.message!!, "'model.bin' is missing")
    }

    @Test
    fun theBudgetIsRead() {
        val bundle = Bundle(Golden.bundle())
        File(bundle.folder, "report.json").writeText(
            """{"candidates": [{"target": "onnx", "phases": {"load": 5, "prefill": 7, "decode": 6}}]}""",
        )
        assertEquals(7, bundle.budget("onnx")!!["prefill"])
        assertNull(bundle.budget("coreml"))
    }
}
