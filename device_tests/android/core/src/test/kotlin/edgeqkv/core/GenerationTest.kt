package edgeqkv.core

import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlinx.serialization.json.double
import kotlinx.serialization.json.float
import kotlinx.serialization.json.int
import kotlinx.serialization.json.intOrNull
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonPrimitive

class GenerationTest {
    @Test
    fun tokensArePickedAsPythonPicksThem() {
        for (case in Golden.cases("sampling")) {
            val logits = case.getValue("logits").jsonArray.map { it.jsonPrimitive.float }.toFloatArray()
            val sampling = Sampling(
                case.getValue("temperature").jsonPrimitive.double,
                case.getValue("top_k").jsonPrimitive.int,
                case.getValue("top_p").jsonPrimitive.double,
            )
            val picked = sampling.pick(logits, case.getValue("uniform").jsonPrimitive.double)
            assertEquals(case.getValue("token").jsonPrimitive.int, picked, "$sampling")
        }
    }

    @Test
    fun settingsOutOfRangeAreRefused() {
        assertFailsWith<EdgeQkvException> { Sampling(temperature = -0.1) }
        assertFailsWith<EdgeQkvException> { Sampling(temperature = Double.NaN) }
        assertFailsWith<EdgeQkvException> { Sampling(topK = -1) }
        assertFailsWith<EdgeQkvException> { Sampling(topP = 0.0) }
    }

    @Test
    fun textIsGeneratedAndEndsAsInPython() {
        for (case in Golden.cases("generation")) {
            val runner = FakeRunner()
            val tokens = mutableListOf<Int>()
            val outcome = session(runner).generate(
                case.ints("prompt").toIntArray(),
                case.getValue("max_tokens").jsonPrimitive.intOrNull,
                eosTokenIds = case.ints("eos_token_ids").toSet(),
                onToken = tokens::add,
            )
            assertEquals(case.ints("tokens"), tokens)
            assertEquals(case.text("stopped"), outcome.stopped!!.name.lowercase())
            assertEquals(case.getValue("calls").pairs(), runner.places)
            assertEquals(case.ints("prompt").size, outcome.prefill.tokens)
            val decoded = runner.places.count { (_, position) -> position >= outcome.prefill.tokens }
            assertEquals(decoded, outcome.decode.tokens)
        }
    }

    @Test
    fun aGenerationIsStopped() {
        var left = 3
        val tokens = mutableListOf<Int>()
        val outcome = session(FakeRunner()).generate(intArrayOf(1), goOn = { left-- > 0 }, onToken = tokens::add)
        assertEquals(StopReason.STOPPED, outcome.stopped)
        assertEquals(4, tokens.size)
    }

    @Test
    fun whatDoesNotFitIsNotFed() {
        val runner = FakeRunner()
        val session = session(runner)
        session.feed(IntArray(20))
        assertFailsWith<ContextFull> { session.feed(IntArray(5)) }
        assertEquals(20, session.position)
        assertFailsWith<EdgeQkvException> { session.feed(intArrayOf(Golden.vocabulary)) }
        assertFailsWith<EdgeQkvException> { session.feed(IntArray(0)) }
        session.reset()
        session.feed(IntArray(Golden.context))
        assertEquals(Golden.context, session.position)
    }
}
