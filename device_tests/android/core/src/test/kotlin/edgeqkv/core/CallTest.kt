package edgeqkv.core

import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject

class CallTest {
    @Test
    fun everyTargetsGraphsAreCalledAsPythonCallsThem() {
        for (case in Golden.cases("feeds")) {
            val name = case.text("artifact")
            val runner = FakeRunner()
            val session = session(runner, name)
            for (ids in case.lists("feeds")) {
                val logits = session.feed(ids.toIntArray())
                assertEquals(fakeLogits(ids.last(), session.position - 1).toList(), logits.toList(), name)
            }
            val calls = case.getValue("calls").jsonArray.map { it.jsonObject }
            assertEquals(calls.map { it.text("graph") }, runner.calls.map { it.graph.name }, name)
            calls.zip(runner.calls).forEachIndexed { index, (wanted, made) ->
                val inputs = wanted.getValue("inputs").jsonObject.mapValues { it.value.jsonObject }
                for (input in made.inputs) {
                    val expected = inputs.getValue(input.spec.name)
                    val where = "$name, call $index, ${input.spec.name}"
                    assertEquals(expected.ints("shape"), input.shape, where)
                    assertEquals(expected.numbers("values"), input.values.toList(), where)
                }
                val ofState = made.graph.inputs.filter { it.role == Role.STATE }.map { it.name }
                assertEquals(emptySet(), inputs.keys - made.inputs.map { it.spec.name } - ofState, "$name, call $index")
            }
        }
    }

    @Test
    fun newRowsAreWrittenWherePythonWritesThem() {
        val case = Golden.cases("feeds").single { it.text("artifact") == "onnx rows" }
        val artifact = Golden.artifact("onnx rows")
        val tensor = artifact.stateTensors.single()
        val state = floats(tensor.bytes.toInt() / 4)
        val runner = FakeRunner()
        val session = session(runner, "onnx rows")
        case.lists("feeds").forEach { session.feed(it.toIntArray()) }
        val wanted = case.getValue("calls").jsonArray.map { it.jsonObject.getValue("inputs").jsonObject }
        for ((call, inputs) in runner.calls.zip(wanted)) {
            val before = inputs.getValue(tensor.input!!).jsonObject.numbers("values")
            assertEquals(before, List(before.size) { state.getFloat(4 * it).toDouble() })
            val rows = floats(call.shape(call.graph.outputs.last()).reduce(Int::times))
            repeat(rows.capacity() / 4) { rows.putFloat(4 * it, (call.position * 1000 + it).toFloat()) }
            artifact.writeRows(tensor, rows, state, call)
        }
    }

    @Test
    fun whatCannotBeCalledIsSaid() {
        val artifact = Golden.artifact("coreml").let { it.copy(graphs = it.graphs.filter { it.tokens > 1 }) }
        val alone = Session(FakeRunner(), artifact)
        assertContains(assertFailsWith<EdgeQkvException> { alone.feed(intArrayOf(1)) }.message!!, "at position 0")
        val graph = Golden.artifact("coreml count").graphs.single()
        val pixels = graph.copy(inputs = graph.inputs.map { it.copy(role = Role.PIXELS) })
        assertContains(assertFailsWith<EdgeQkvException> { Call(pixels, intArrayOf(1), 0).inputs }.message!!, "PIXELS")
        val odd = graph.copy(inputs = graph.inputs.map { it.copy(shape = listOf(Size.Named("breadth"))) })
        assertContains(assertFailsWith<EdgeQkvException> { Call(odd, intArrayOf(1), 0).inputs }.message!!, "breadth")
    }

    @Test
    fun graphsOfFullWindowsAreClosed() {
        val closed = mutableSetOf<String>()
        val runner = object : Runner {
            override fun run(call: Call) = FloatArray(Golden.vocabulary)

            override fun close(graph: Graph) {
                closed += graph.name
            }

            override fun close() = Unit
        }
        val session = session(runner, "onnx static")
        session.feed(IntArray(11))
        session.feed(IntArray(1))
        assertEquals(emptySet(), closed)
        session.feed(IntArray(1))
        assertEquals(setOf("prefill_12", "decode_12"), closed)
    }

    private fun floats(size: Int) = ByteBuffer.allocateDirect(4 * size).order(ByteOrder.nativeOrder())
}
