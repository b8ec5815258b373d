package edgeqkv.core

import java.io.File
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive

/** Writes nothing but " a", one token each; its memory is what its phase says. */
private class WordModel(private val tokenizer: Tokenizer, private val memory: (Long) -> Unit) : TextModel {
    init {
        memory(300)
    }

    override fun generate(prompt: String, maxTokens: Int?, temperature: Double, onText: (String) -> Unit): Outcome {
        memory(900)
        val decoded = maxTokens!! - 1
        repeat(maxTokens) {
            onText(" a")
            memory(500)
        }
        return Outcome(Run(tokenizer.encode(prompt).size, 0.5), Run(decoded, 2.0), StopReason.MAX_TOKENS)
    }

    override fun stop() = Unit

    override fun close() = memory(0)
}

class MeasurementTest {
    private val tokenizer = Tokenizer(Golden.tokenizer)
    private val artifact = Golden.artifact("onnx").copy(context = 64, vocabulary = 1024)

    @Test
    fun aRunFillsTheContextAndIsWatchedByPhase() {
        var memory = 100L
        val measured = measure(context = 512, tokenizer, probe = { memory }) { WordModel(tokenizer) { memory = it } }
        assertEquals(448, measured.outcome.prefill.tokens)
        assertEquals(64, measured.outcome.decode.tokens)
        assertEquals(100, measured.memoryBefore)
        assertEquals(mapOf(Phase.LOAD to 300L, Phase.PREFILL to 900L, Phase.DECODE to 500L), measured.memoryPeaks)
        assertEquals(32.0, measured.outcome.decode.tokensPerSecond)
        assertTrue(measured.loadSeconds >= 0)
    }

    @Test
    fun aSessionIsMeasuredToo() {
        val words = object : Runner {
            override fun run(call: Call) = FloatArray(1024).also { it[call.ids.last()] = 1f }

            override fun close() = Unit
        }
        val measured = measure(context = 64, tokenizer, probe = { 1 }) {
            SessionTextModel(Session(words, artifact), tokenizer, eosTokenIds = emptySet())
        }
        assertEquals(listOf(32, 32), listOf(measured.outcome.prefill.tokens, measured.outcome.decode.tokens))
    }

    @Test
    fun aRunThatDecodesNothingIsNoMeasurement() {
        val ends = object : Runner {
            override fun run(call: Call) = FloatArray(1024)

            override fun close() = Unit
        }
        assertFailsWith<EdgeQkvException> {
            measure(context = 64, tokenizer, probe = { 1 }) {
                SessionTextModel(Session(ends, artifact), tokenizer, eosTokenIds = setOf(0))
            }
        }
    }

    /** Python reads the file that is written here, where the property `device_report` names one. */
    @Test
    fun theReportIsWritten() {
        val phases = mapOf(Phase.LOAD to 84_000_000L, Phase.PREFILL to 92_000_000L, Phase.DECODE to 91_000_000L)
        val report = DeviceReport(
            date = "2026-11-22T10:30:00Z",
            app = Software("edgeqkv-android", "0.1.0"),
            device = Device("Pixel \"9\" Pro", processor = null, ramBytes = 15_800_000_000),
            system = Software("Android", "16"),
            runtime = Software("onnxruntime", "1.30.0", "CPU"),
            manifestSha256 = Golden.bundle.text("sha256"),
            target = "onnx",
            measurement = Measurement(
                0.25,
                Outcome(Run(480, 0.4), Run(32, 0.8), StopReason.MAX_TOKENS),
                60_000_000,
                phases,
            ),
            memoryFigure = "Debug.MemoryInfo.totalPss",
            stateBytes = 524_288,
            thermal = Thermal("THERMAL_STATUS_NONE", "THERMAL_STATUS_LIGHT"),
        )
        val told = Json.parseToJsonElement(report.toJson()).jsonObject
        assertEquals("Pixel \"9\" Pro", told.getValue("device").jsonObject.text("name"))
        assertEquals("null", told.getValue("device").jsonObject.getValue("processor").jsonPrimitive.content)
        assertTrue("\"thermal\":null" in report.copy(thermal = null).toJson())
        System.getProperty("device_report")?.let { File(it).writeText(report.toJson()) }
    }
}
