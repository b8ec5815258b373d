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
        assertEquals(setOf(0, 3), bundle.eosIds)
        assertEquals(listOf("past_kv"), artifact.stateTensors.map { it.input })
        assertEquals(listOf("present_kv", "present_kv_as_values"), artifact.stateTensors[0].outputs)
        assertEquals(Graph("model", "model.bin", Golden.chunk, fixed = false), artifact.graphs.single())
        assertEquals(2L * Golden.context * 8 * 4, artifact.stateBytes)
        assertNull(bundle.budget("onnx"))
    }

    @Test
    fun aStateThatTheRuntimeHoldsHasNoNamesInTheGraph() {
        val artifact = Bundle(Golden.bundle()).target("coreml")
        assertEquals(listOf("prefill", "decode"), artifact.graphs.filter { it.fixed }.map { it.name })
        assertNull(artifact.stateTensors.single().input)
        assertEquals(emptyList(), artifact.stateTensors.single().outputs)
        assertEquals(2L * Golden.context * 8 * 2, artifact.stateBytes)
    }

    @Test
    fun anotherFormatIsNamed() {
        val folder = Golden.bundle { it.replace("\"format\": 1", "\"format\": 2") }
        val error = assertFailsWith<EdgeQkvException> { Bundle(folder) }
        assertContains(error.message!!, "of format 2, and this app reads format 1")
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
